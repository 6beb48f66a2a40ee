from driver import *
from cache_aside import after, before

old, new = Loader("old"), Loader("new")
same(at_once(10, lambda: before("page:1", old)), ["old"] * 10)
same(at_once(10, lambda: after("page:1", new)), ["old"] * 10)
C("DEL", "page:1")
same(at_once(10, lambda: after("page:1", new)), ["new"] * 10)
# The old code loads more than once at times; the new code does not.
same((before("page:1", old), new.calls), ("new", 1))
