from driver import *
from daily import welcome_once

same(len({welcome_once("ann") for _ in range(3)} | {welcome_once("bob")}), 2)
same((C("XLEN", "mail"), counted("task_deduplicated")), (2, 2))
assert 80_000_000 < C("PTTL", "unique4:{mail}:welcome:ann") <= 86_400_000
