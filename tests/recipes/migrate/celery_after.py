from driver import *

done = start("celery_after.py")
same(done.wait(20), 0)
same((C("XLEN", "mail"), C("ZCARD", "delayed:{mail}")), (1, 1))
worker = corral_worker("celery_after:worker")
until(lambda: "sending ann\n" in worker.printed and C("XLEN", "mail") == 0)
worker.terminate()
same(worker.wait(20), 0)
