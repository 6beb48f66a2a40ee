from driver import *
from corral_client import LockLost
from watched import watch

lost = threading.Event()
try:
    with corral.lock("batch", ttl=60) as lease:
        watch(lease, lost)
        until(lambda: shared.client_list("pubsub"))
        C("LOCK.EXTEND", "batch", lease.identifier, 60_000)
        assert not lost.wait(0.3)
        C("DEL", "lock:{batch}")
        assert lost.wait(10)        # the renewal would notice after 20 s
except LockLost:
    pass
