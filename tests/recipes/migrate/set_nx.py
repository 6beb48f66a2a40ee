from driver import *
from set_nx import after, before

exclude_each_other(before, after)
