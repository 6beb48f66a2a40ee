from driver import *
import article as module
from article import article

load = module.render = Loader("old", "new", ValueError("down"))
same(at_once(50, lambda: article(7)), ["old"] * 50)
same(load.calls, 1)
C("PEXPIRE", "article:7", 3_290_000)
load.go.clear()
same(at_once(20, lambda: article(7)), ["old"] * 20)
until(lambda: load.calls == 2)
load.go.set()
until(lambda: C("GET", "article:7") == b'"new"')
same(article(7), "new")
# A failed load in the background disturbs nobody.
C("PEXPIRE", "article:7", 3_290_000)
same(article(7), "new")
until(lambda: "backing-off" in str(C("CACHE.INFO", "article:7")))
same(article(7), "new")
same(load.calls, 3)
