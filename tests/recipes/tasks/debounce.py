from driver import *
from debounce import reindex

same(len({reindex("s1") for _ in range(100)} | {reindex("s2")}), 2)
same(C("ZCARD", "delayed:{mail}"), 2)
