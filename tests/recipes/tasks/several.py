from driver import *
from several import QUEUES, work_off

done = []
handlers = {queue: (lambda payload, queue=queue: done.append((queue, payload))) for queue in QUEUES}
same(work_off(handlers, block=20), None)

# The task of any queue answers the one connection that waits, and is acknowledged there.
for queue in QUEUES:
    with Callers(1) as pool:
        waiting = pool.submit(work_off, handlers, 20_000)
        until(lambda: counted("task_waiters") == 1)
        C("TASK.PUBLISH", queue, queue)
        waiting.result()
    same((done.pop(), C("XLEN", queue)), ((queue, queue.encode()), 0))

# A failed task is retried in its own queue.
def refuse(payload):
    raise ValueError(payload)

C("TASK.PUBLISH", "invoices", "bad")
work_off({**handlers, "invoices": refuse})
same((C("ZCARD", "delayed:{invoices}"), C("ZCARD", "delayed:{mail}"), done), (1, 0, []))
