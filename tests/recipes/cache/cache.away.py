from driver import *
from cache import cached
from save import save

if role:
    load, rows = Loader(b"html"), {}
    same(at_once(400, lambda: cached("page", load)), [b"html"] * 400)
    assert load.calls < 40, load.calls
    save(1, b"new", rows.__setitem__)
    same(rows, {1: b"new"})
    sys.exit()

# Memory is full: none of 400 calls fails, and the process loads once at a time.
C("CONFIG", "SET", "maxmemory-policy", "noeviction")
C("CONFIG", "SET", "maxmemory", 1)
load = Loader(b"html")
same(at_once(400, lambda: cached("page", load)), [b"html"] * 400)
assert load.calls < 40, load.calls
C("CONFIG", "SET", "maxmemory", 0)
# It fills up during a load: the value is returned, and the lease is given up.
def fill():
    C("CONFIG", "SET", "maxmemory", 1)
    return b"html"
same(cached("page", fill, lease=60_000), b"html")
C("CONFIG", "SET", "maxmemory", 0)
same(cached("page", lambda: b"again"), b"again")
# There is no server: connections are refused.
away = start("away", REDIS_URL="redis://127.0.0.1:1")
assert away.wait() == 0, "".join(away.printed)
