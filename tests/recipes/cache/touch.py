from driver import *
import user as module
from touch import touch
from user import user

rows, load = {1: "old"}, Loader("new")
module.find = rows.__getitem__
same(user(1), "old")
touch(1, "new", rows.__setitem__)
same((rows[1], C("GET", "user:1")), ("new", b'"old"'))
assert 0 < C("PTTL", "user:1") <= 10_000
module.find = load
load.go.clear()
with Callers(1) as pool:
    loading = pool.submit(user, 1)
    until(lambda: load.calls == 1)
    same(C("CACHE.GET", "user:1"), b'"old"')
    load.go.set()
    same(loading.result(), "new")
same((user(1), load.calls), ("new", 1))
