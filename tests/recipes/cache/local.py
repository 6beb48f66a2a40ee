# It drives tracking.py too.
from driver import *
from local import LocalCache

def hits():
    info = C("CACHE.INFO", "page:1")
    return dict(zip(info[::2], info[1::2]))[b"hits"]

def is_local(value):
    """Whether a read returns the value and does not reach the server."""
    before = hits()
    same(get(), value)
    return hits() == before

load = Loader("old", "new", "newer")
pages = LocalCache("page:")
until(lambda: pages.connected)
get = lambda: pages.get("1", load, seconds=600, ttl=60)
get()
# The message about the store itself removes the copy at most once.
until(lambda: is_local("old"))
C("CACHE.INVALIDATE", "page:1")
until(lambda: get() == "new")
until(lambda: is_local("new"))
# Without its connection it forgets what it knows.
C("CLIENT", "KILL", "TYPE", "pubsub")
C("CACHE.INVALIDATE", "page:1")
until(lambda: get() == "newer")
same(load.calls, 3)
