from driver import *
import worker
from worker import *

def loses(take_away):
    """The handler learns that its task is taken away, while it works."""
    found = threading.Event()
    def handle(payload, key, lost):
        take_away(key)
        assert lost.wait(20), "it never learned it"
        found.set()
        stopping.set()
    stopping.clear()
    C("TASK.PUBLISH", QUEUE, "ann")
    run(handle)
    assert found.is_set()

worker.LEASE = 600
# Somebody else has finished it.
loses(lambda id: same(C("TASK.ACK", QUEUE, GROUP, id), 1))
# Its lease was over, and somebody else has it.
loses(lambda id: C("XCLAIM", QUEUE, GROUP, "somebody else", 0, id))
# It takes too long, and nobody else has it: it is not kept for ever.
worker.LONGEST = 0.1
loses(lambda id: None)
