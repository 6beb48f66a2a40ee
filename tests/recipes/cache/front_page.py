from driver import *
import front_page
from front_page import page

# 300 callers, one load.
render = front_page.render = Loader("html", "newer")
same(at_once(300, lambda: page(1)), ["html"] * 300)
same((render.calls, C("GET", "page:1")), (1, b'"html"'))
assert 300_000 < C("PTTL", "page:1") <= 360_000
# In its last minute, one caller reloads it, and the others get the old value.
C("PEXPIRE", "page:1", 59_000)
render.go.clear()
with Callers(1) as pool:
    loading = pool.submit(page, 1)
    until(lambda: render.calls == 2)
    same(C("CACHE.GET", "page:1"), b'"html"')
    render.go.set()
    same(loading.result(), "newer")
same(page(1), "newer")
