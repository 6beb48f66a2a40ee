from driver import *
from warm import warm

C("SET", "page:3", "theirs")
same(warm({f"page:{n}": f"html {n}" for n in range(100)}), 99)
same((C("GET", "page:3"), C("GET", "page:99")), (b"theirs", b'"html 99"'))
ends = {C("PEXPIRETIME", f"page:{n}") // 1_000 for n in range(100) if n != 3}
assert len(ends) > 10, ends
assert all(200_000 < C("PTTL", f"page:{n}") <= 300_000 for n in range(100) if n != 3)
same(warm({"page:1": "again"}), 0)
same(corral.cache.get("page:1"), "html 1")
