from driver import *
from redis_lock import after, before

# Both at once: they exclude each other.
inside = []
def work():
    inside.append(1)
    same(len(inside), 1)
    time.sleep(0.02)
    inside.pop()
    done.append(1)
done = []
at_once(8, lambda: [call(work) for call in (before, after)])
assert len(done) >= 2, done
same(C("EXISTS", "lock:{nightly-batch}"), 0)
