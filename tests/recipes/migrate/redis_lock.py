from driver import *
from redis_lock import after, before

exclude_each_other(before, after)
