from driver import *
from once import only_one

runs = []
same(at_once(20, lambda: only_one("report", 60_000, lambda: runs.append(1) or "done")).count("done"), 1)
same(len(runs), 1)
