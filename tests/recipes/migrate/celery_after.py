from driver import *
import worker
from celery_after import TASKS, handle

done = start("celery_after.py")
same(done.wait(20), 0)
same((C("XLEN", "mail"), C("ZCARD", "delayed:{mail}")), (1, 1))
sent = []
TASKS["send"] = lambda address: (sent.append(address), worker.stopping.set())
worker.run(handle)
same((sent, C("XLEN", "mail")), (["ann"], 0))
