from driver import *
from replicated import acquire_replicated

me, token = acquire_replicated("batch", replicas=0)
same((C("LOCK.EXTEND", "batch", me, 30_000), token > 0), (1, True))
C("LOCK.RELEASE", "batch", me)
# No replica has it: the lock is given up.
same((acquire_replicated("batch"), C("EXISTS", "lock:{batch}")), (None, 0))
