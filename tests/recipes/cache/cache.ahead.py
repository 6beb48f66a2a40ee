from driver import *
from cache import cached

first, second = Loader(b"old"), Loader(b"new")
page = lambda load: cached("page:1", load)
same(page(first), b"old")
same(page(second), b"old")
same(second.calls, 0)
C("PEXPIRE", "page:1", 59_000)
second.go.clear()
with Callers(1) as pool:
    loading = pool.submit(page, second)
    until(lambda: second.calls == 1)
    same(at_once(20, lambda: page(second)), [b"old"] * 20)
    second.go.set()
    same(loading.result(), b"new")
same(page(second), b"new")
same(second.calls, 1)
