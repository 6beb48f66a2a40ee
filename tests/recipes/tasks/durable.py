from driver import *
from durable import publish_durably
from publish import QUEUE

id, enough = publish_durably("ann", "welcome:ann", replicas=0)
same((enough, [id]), (True, [id for id, _ in shared.xrange(QUEUE)]))
# Nobody has it; to ask again is not to publish again.
for _ in range(2):
    again, enough = publish_durably("ann", "welcome:ann", replicas=1, patience=20)
    same((again, enough, C("XLEN", QUEUE)), (id, False, 1))
