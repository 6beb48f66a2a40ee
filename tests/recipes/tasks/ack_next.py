from driver import *
from ack_next import ack_and_next
from worker import GROUP, ME, QUEUE

for name in "ann", "bob":
    C("TASK.PUBLISH", QUEUE, name)
[[id, *_]] = C("TASK.CONSUME", GROUP, ME, QUEUE, "META")
[[id, fields, _, _]] = ack_and_next(id)
same((fields[1], C("XLEN", QUEUE)), (b"bob", 1))
same((ack_and_next(id, block=20), C("XLEN", QUEUE)), ([], 0))
