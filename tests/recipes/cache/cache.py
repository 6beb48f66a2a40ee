from driver import *
from cache import LoadFailed, cached

# 300 callers, a load of 4 s that is longer than its lease and than the shared client's time-out: one load, no failure.
calls = []
def slow():
    calls.append(1)
    time.sleep(4)
    return b"html"
same(at_once(300, lambda: cached("hot", slow, lease=1_000)), [b"html"] * 300)
same(len(calls), 1)
# With a back-off nobody tries again at once, and everybody gets the reason.
load = Loader(ValueError("down"), b"html")
got = at_once(50, lambda: fails(lambda: cached("other", load, backoff=60_000)))
same((got.count("down"), load.calls), (1, 1))
assert all("ValueError('down')" in reason for reason in got if reason != "down")
try:
    cached("other", load)
    assert False
except LoadFailed:
    pass
C("CACHE.INVALIDATE", "other")
same(cached("other", load), b"html")
# Nobody loads: the wait ends.
C("CACHE.FETCH", "hanging", 60_000)
started = time.monotonic()
assert "hanging" in fails(lambda: cached("hanging", load, patience=50))
assert time.monotonic() - started < 10
# A loader that hands over to the next: its lease is longer than anybody waits.
_, _, token = C("CACHE.FETCH", "given-up", 60_000)
with Callers(20) as pool:
    waiting = [pool.submit(cached, "given-up", load) for _ in range(20)]
    until(lambda: counted("cache_waiters") == 1)
    C("CACHE.FAIL", "given-up", token)
    same([one.result() for one in waiting], [b"html"] * 20)
same(load.calls, 3)
