from driver import *
import worker
from worker import *

worker.BLOCK = 300
C("TASK.POLICY", QUEUE, "TRIES", 3, "BACKOFF", 1, 5)
ids = {payload: C("TASK.PUBLISH", QUEUE, payload) for payload in ("good", "bad", "unreadable", "later")}
C("XADD", QUEUE, "*", "customer", "bob")               # of a producer that knows nothing of tasks
seen = []

def handle(payload, key, lost):
    seen.append((payload.decode(), key))
    if payload == b"bad":
        raise ValueError("down")
    if payload == b"unreadable":
        raise Fatal("no JSON")
    if payload == b"later" and len([one for one in seen if one[0] == "later"]) < 5:
        raise Later(1)

workers = [Thread(target=run, args=(handle,)) for _ in range(3)]
for one in workers:
    one.start()
until(lambda: C("XLEN", "dead:{mail}") == 3 and C("XLEN", QUEUE) + C("ZCARD", "delayed:{mail}") == 0)
stopping.set()
for one in workers:
    one.join()

# Every attempt is known by the id that PUBLISH replied.
tried = {name: [key for payload, key in seen if payload == name] for name in ids}
same(tried, {name: [ids[name]] * times for name, times in dict(good=1, bad=3, unreadable=1, later=5).items()})
dead = [fields for _, fields in shared.xrange("dead:{mail}")]
same({(one.get(b"payload"), one[b"reason"], one[b"retry_count"]) for one in dead}, {
    (b"bad", b"ValueError('down')", b"3"),
    (b"unreadable", b"no JSON", b"1"),
    (None, b"KeyError(b'payload')", b"3"),
})
