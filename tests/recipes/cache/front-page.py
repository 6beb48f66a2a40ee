# on: read-through
render = Loader(b"html")
same(at_once(50, lambda: front_page(render)), [b"html"] * 50)
same(render.calls, 1)
assert 0 < C("PTTL", "page:1") <= 300_000
