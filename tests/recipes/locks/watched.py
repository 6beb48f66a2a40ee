from driver import *
from lock import lock
from watched import watch

with lock("batch", ttl=60_000) as (token, lost):
    watch("batch", lost)
    until(lambda: shared.client_list("pubsub"))
    C("LOCK.EXTEND", "batch", C("GET", "lock:{batch}"), 60_000)
    assert not lost.wait(0.3)
    C("DEL", "lock:{batch}")
    assert lost.wait(10)        # the renewal would notice after 20 s
