from driver import *
from cache import cached
from save import save

rows = {1: b"old"}
begun, go = threading.Event(), threading.Event()
def slow():
    row = rows[1]
    begun.set()
    assert go.wait(20)
    return row
with Callers(1) as pool:
    loading = pool.submit(cached, "user:1", slow)
    assert begun.wait(20)
    save(1, b"new", rows.__setitem__)
    # Who asks now does not join the load that began before.
    same(cached("user:1", lambda: rows[1]), b"new")
    go.set()
    same(loading.result(), b"old")
same(C("GET", "user:1"), b"new")
save(1, b"newer", rows.__setitem__)
same(cached("user:1", lambda: rows[1]), b"newer")
