from driver import *
from patient import publish_patiently
from publish import QUEUE, publish

C("TASK.POLICY", QUEUE, "LIMIT", 1)
first = publish("ann")
assert fails(lambda: publish("bob")).startswith("TASKFULL")
assert fails(lambda: publish_patiently("bob", patience=0.2)).startswith("TASKFULL")
with Callers(1) as pool:
    bob = pool.submit(publish_patiently, "bob", 20)
    refused = counted("task_refused")
    until(lambda: counted("task_refused") > refused)
    same(C("TASK.CANCEL", QUEUE, first), 1)
    bob = bob.result()
same([id for id, _ in shared.xrange(QUEUE)], [bob])
