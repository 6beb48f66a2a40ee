from driver import *
from cache import cached

load = Loader(b"old", ValueError("down"), b"new")
page = lambda **options: cached("page", load, ttl=60_000, stale=10_000, **options)
same(page(), b"old")
C("PEXPIRE", "page", 9_000)
same(at_once(20, lambda: page(backoff=60_000)), [b"old"] * 20)
same(load.calls, 2)
C("CACHE.INVALIDATE", "page", "STALE", 9_000)
same(page(), b"new")
