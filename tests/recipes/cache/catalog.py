from driver import *
from catalog import drop_catalog, product

load = Loader("one", "two", "three")
same([product(7, load), product(7, load), product(8, load)], ["one", "one", "two"])
drop_catalog()
same(product(7, load), "three")
