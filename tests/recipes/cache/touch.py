from driver import *
from cache import cached
from touch import touch

rows, load = {1: b"old"}, Loader(b"new")
same(cached("user:1", lambda: rows[1]), b"old")
touch(1, b"new", rows.__setitem__)
same((rows[1], C("GET", "user:1")), (b"new", b"old"))
assert 0 < C("PTTL", "user:1") <= 10_000
load.go.clear()
with Callers(1) as pool:
    loading = pool.submit(cached, "user:1", load)
    until(lambda: load.calls == 1)
    same(cached("user:1", load), b"old")
    load.go.set()
    same(loading.result(), b"new")
same((cached("user:1", load), load.calls), (b"new", 1))
