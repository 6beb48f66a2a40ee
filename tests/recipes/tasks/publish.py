from driver import *
from publish import publish
from publish import QUEUE

first = publish("ann", key="welcome:ann")
same(publish("ann", key="welcome:ann"), first)
assert publish("ann") != first and publish("ann", "PRIORITY", 9) != first
same((C("XLEN", QUEUE), C("XLEN", "priority9:{mail}"), counted("task_deduplicated")), (2, 1, 1))
assert 0 < C("PTTL", "unique4:{mail}:welcome:ann") <= 600_000
