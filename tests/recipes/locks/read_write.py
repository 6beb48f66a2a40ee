from driver import *
from read_write import read, write

catalog = {}
calls = [(write, catalog, n, n) if n % 5 == 0 else (read, catalog) for n in range(100)]
with Callers(20) as pool:
    [done.result() for done in [pool.submit(*call) for call in calls]]
same(len(read(catalog)), 20)
