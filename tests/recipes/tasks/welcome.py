from driver import *
from welcome import welcome
from publish import QUEUE

same(len({welcome("ann") for _ in range(3)} | {welcome("bob")}), 2)
same(C("XLEN", QUEUE), 2)
assert 80_000_000 < C("PTTL", "unique4:{mail}:welcome:ann") <= 86_400_000
