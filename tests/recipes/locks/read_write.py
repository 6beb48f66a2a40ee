from driver import *
from read_write import read, write

catalog = {}
with Callers(20) as pool:
    [done.result() for done in [pool.submit(write, catalog, n, n) if n % 5 == 0 else pool.submit(read, catalog) for n in range(100)]]
same(len(read(catalog)), 20)
