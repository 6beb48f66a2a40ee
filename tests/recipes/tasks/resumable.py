from driver import *
from resumable import handle_slowly
from worker import GROUP, QUEUE, run, stopping

steps = []
def do_step(key, step):
    steps.append((key, step))
    if len(steps) == 10:
        stopping.set()

id = C("TASK.PUBLISH", QUEUE, "ann")
run(lambda payload, key, lost: handle_slowly(payload, key, lost, do_step))
same(steps, [(id, step) for step in range(10)])
# The next worker has it at once, and it does not count.
stopping.clear()
[[_, fields, _, deliveries]] = C("TASK.CONSUME", GROUP, "next", QUEUE, "META")
same((dict(zip(fields[::2], fields[1::2]))[b"retry_count"], deliveries), (b"0", 1))
