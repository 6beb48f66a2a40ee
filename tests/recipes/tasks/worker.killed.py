from driver import *
import worker
from worker import *

LEASE = worker.LEASE = 1_500
worker.BLOCK = 300
C("TASK.POLICY", QUEUE, "LEASE", LEASE)

def handle(payload, key, lost):
    C("RPUSH", "begun", key)
    if role == "victim":
        time.sleep(60)
    C("RPUSH", "finished", key)

if role:
    main(handle, threads=1)
    sys.exit()

id = C("TASK.PUBLISH", QUEUE, "ann")
victim = start("victim")
until(lambda: C("LLEN", "begun") == 1)
other = start("other")
# As long as it lives it keeps the task, beyond the lease.
time.sleep(1.3 * LEASE / 1000)
same((C("LLEN", "begun"), C("LLEN", "finished")), (1, 0))
# kill -9
victim.kill()
victim.wait()
until(lambda: C("LLEN", "finished") == 1)
same((C("LRANGE", "begun", 0, -1), C("LRANGE", "finished", 0, -1)), ([id, id], [id]))
until(lambda: C("XLEN", QUEUE) == 0)
same(counted("task_reclaimed"), 1)
other.kill()
