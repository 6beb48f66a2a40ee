from driver import *
from bulk import welcome_all

ids = welcome_all([f"{n}@example.org" for n in range(500)])
same((len(set(ids)), C("XLEN", "mail")), (500, 500))
