# needs: celery
from driver import *
from celery.contrib.testing.worker import start_worker
from celery_before import app, send

app.conf.worker_hijack_root_logger = False
app.conf.worker_redirect_stdouts = False
send.delay("ann")
with start_worker(app, perform_ping_check=False, pool="solo"):
    until(lambda: C("LLEN", "celery") == 0 and C("ZCARD", "unacked_index") == 0)
    # Both at once: another queue on the same server.
    C("TASK.PUBLISH", "mail", "ann")
    same(len(C("TASK.CONSUME", "workers", "w1", "mail", "META")), 1)
fails(lambda: C("TASK.PUBLISH", "_kombu.binding.celery", "ann"))
