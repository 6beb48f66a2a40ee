from driver import *
from corral_client import QueueFull
from patient import sign_up_patiently
from publish import sign_up

C("TASK.POLICY", "mail", "LIMIT", 1)
first = sign_up("ann")
for refused in (lambda: sign_up("bob"), lambda: sign_up_patiently("bob", 0.2)):
    try:
        refused()
        raise AssertionError("the queue is not full")
    except QueueFull:
        pass
with Callers(1) as pool:
    bob = pool.submit(sign_up_patiently, "bob", 20)
    before = counted("task_refused")
    until(lambda: counted("task_refused") > before)
    same(C("TASK.CANCEL", "mail", first), 1)
    bob = bob.result()
same([id.decode() for id, _ in shared.xrange("mail")], [bob])
