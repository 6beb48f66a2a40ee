from driver import *
from lock import lock

# One at a time, in order; more waiters than the shared client has connections.
inside, order = [], []
def work(n):
    with lock("batch", patience=10_000) as (token, lost):
        inside.append(n)
        same(len(inside), 1)
        order.append(token)
        time.sleep(0.01)
        inside.remove(n)
with Callers(60) as pool:
    for done in [pool.submit(work, n) for n in range(60)]:
        done.result()
same((len(order), order), (60, sorted(order)))
# It is renewed, and kept for longer than its lease.
with lock("batch", ttl=600) as (token, lost):
    time.sleep(2)
    same((C("LOCK.ACQUIRE", "batch", "other", 1_000, "FENCE"), lost.is_set()), (0, False))
# Not granted in time; it leaves the queue.
C("LOCK.ACQUIRE", "batch", "other", 60_000)
def wait():
    with lock("batch", patience=50):
        raise AssertionError("granted")
assert "batch" in fails(wait)
C("LOCK.RELEASE", "batch", "other")
# It is taken away: the holder learns it.
with lock("batch", ttl=600) as (token, lost):
    C("DEL", "lock:{batch}")
    assert lost.wait(20)
# An exception of the work comes through, and the lock is free.
def broken():
    with lock("batch"):
        raise ValueError("broken")
same(fails(broken), "broken")
same(C("EXISTS", "lock:{batch}"), 0)
# The release does not get through: the work is done, and nothing raises.
with lock("batch"):
    C("ACL", "SETUSER", "default", "-lock.release")
C("ACL", "SETUSER", "default", "+lock.release")
same(C("EXISTS", "lock:{batch}"), 1)
# Readers.
with lock("readers", mode=("SHARED",)) as (one, _), lock("readers", mode=("SHARED",)) as (two, _):
    same((one, two), (1, 1))
