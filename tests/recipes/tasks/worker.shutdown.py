from driver import *
import worker
from worker import *

worker.BLOCK = 5_000

def handle(payload, key, lost):
    C("RPUSH", "begun", payload)
    until(lambda: C("EXISTS", "go"))
    C("RPUSH", "finished", payload)

if role:
    Thread(target=lambda: (stopping.wait(), C("SET", "stopping", 1)), daemon=True).start()
    main(handle, threads=2)
    sys.exit()

C("TASK.PUBLISH", QUEUE, "in work")
process = start("worker")
until(lambda: C("LLEN", "begun") == 1 and counted("task_waiters") == 1)
process.terminate()
until(lambda: C("EXISTS", "stopping"))
# A task that comes now is given back: nobody begins it, and that does not count.
late = C("TASK.PUBLISH", QUEUE, "late")
until(lambda: counted("task_requeued") == 1)
same(process.poll(), None)
# What was in work is finished.
C("SET", "go", 1)
same(process.wait(20), 0)
same((C("LRANGE", "begun", 0, -1), C("LRANGE", "finished", 0, -1)), ([b"in work"], [b"in work"]))
[[_, fields, _, deliveries]] = W("TASK.CONSUME", GROUP, ME, QUEUE, "META")
fields = dict(zip(fields[::2], fields[1::2]))
same((fields[b"payload"], fields[b"retry_count"], fields[b"original_id"], deliveries), (b"late", b"0", late, 1))
same(C("XLEN", QUEUE), 1)
