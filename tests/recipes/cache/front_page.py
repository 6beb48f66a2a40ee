from driver import *
from front_page import front_page

render = Loader(b"html")
same(at_once(50, lambda: front_page(render)), [b"html"] * 50)
same(render.calls, 1)
assert 300_000 < C("PTTL", "page:1") <= 360_000
