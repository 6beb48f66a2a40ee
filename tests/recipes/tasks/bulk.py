from driver import *
from bulk import publish_all

ids = publish_all([f"mail {n}" for n in range(500)])
same((len(set(ids)), C("XLEN", "mail")), (500, 500))
