from driver import *
import resumable
from corral_client import Worker
from mailer import mail

parts, half, stopping = [], threading.Event(), threading.Event()
def send_part(part):
    parts.append(part)
    if len(parts) == 10:
        half.set()
        assert stopping.wait(20)
resumable.send_part = send_part

@(worker := Worker([mail])).middleware
def watched(task, call):
    threading.Thread(target=lambda: (until(lambda: task.stopping), stopping.set())).start()
    return call()

resumable.newsletter.publish(parts=100)
worker.start()
assert half.wait(20)
worker.stop()
same(parts, list(range(10)))
# The next worker has it at once, goes on there, and it does not count.
[[_, fields, _, deliveries]] = C("TASK.CONSUME", "workers", "next", "mail", "META")
fields = dict(zip(fields[::2], fields[1::2]))
same((fields[b"payload"], fields[b"retry_count"], deliveries), (b'{"parts":100,"done":10}', b"0", 1))
C("TASK.NACK", "mail", "workers", "next", "SILENT", C("XPENDING", "mail", "workers")["min"])
work_off(Worker([mail]), lambda: is_done("mail"))
same(parts, list(range(100)))
