from driver import *
from catalog import drop_catalog, product

load = Loader(b"one", b"two", b"three")
same([product(7, load), product(7, load), product(8, load)], [b"one", b"one", b"two"])
drop_catalog()
same(product(7, load), b"three")
