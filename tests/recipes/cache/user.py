from driver import *
import user as module
from user import user

same((user(7), user(1)), ({"name": "ann"}, None))
find = module.find = Loader(None)
C("FLUSHALL")
same(at_once(20, lambda: user(1)), [None] * 20)
same((find.calls, C("GET", "user:1")), (1, b"null"))
assert 30_000 < C("PTTL", "user:1") <= 35_000
