from driver import *
from local import LocalCache

load = Loader(b"old", b"new", b"newer")
pages = LocalCache("page:")
until(lambda: pages.connected)
get = lambda: pages.get("1", load, seconds=600)
same([get() for _ in range(5)], [b"old"] * 5)
reads = C("CACHE.INFO", "page:1")
C("CACHE.INVALIDATE", "page:1")
until(lambda: get() == b"new")
same(load.calls, 2)
hits = lambda: int(dict(zip(*[iter(C("CACHE.INFO", "page:1"))] * 2))[b"hits"]) if isinstance(C("CACHE.INFO", "page:1"), list) else C("CACHE.INFO", "page:1")[b"hits"]
before = hits()
same([get() for _ in range(5)], [b"new"] * 5)
same(hits(), before)
# Whoever loses the connection forgets what it knows.
C("CLIENT", "KILL", "TYPE", "pubsub")
C("CACHE.INVALIDATE", "page:1")
until(lambda: get() == b"newer")
