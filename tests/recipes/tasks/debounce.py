from driver import *
from debounce import reindex_soon

same(len({reindex_soon("s1") for _ in range(100)} | {reindex_soon("s2")}), 2)
same(C("ZCARD", "delayed:{mail}"), 2)
