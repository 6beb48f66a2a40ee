"""Tasks with RQ, with its default settings except for the intervals, if a timeout is set."""
import os
import sys
from datetime import datetime, timezone

from rq import Queue, Retry
from tasks import PORT, QUEUE, TIMEOUT, batches, main, perform, store

queue = Queue(QUEUE, connection=store())
# Otherwise the task of a killed worker stays failed.
retry = Retry(max=3) if TIMEOUT else None


def publish(bodies):
    for some in batches(bodies):
        queue.enqueue_many([Queue.prepare_data(perform, (body,), retry=retry) for body in some])


def publish_delayed(tasks):
    for body, due in tasks:
        queue.enqueue_at(datetime.fromtimestamp(due, timezone.utc), perform, body)


def work(count):
    rq = [os.path.join(os.path.dirname(sys.executable), "rq")]
    where = ["--url", f"redis://127.0.0.1:{PORT}/0", "--quiet", QUEUE]
    if count > 1:
        os.execv(rq[0], [*rq, "worker-pool", "--num-workers", str(count), *where])
    times = ["--maintenance-interval", str(TIMEOUT), "--job-monitoring-interval", str(TIMEOUT)]
    os.execv(rq[0], [*rq, "worker", "--with-scheduler", *(times if TIMEOUT else []), *where])


if __name__ == "__main__":
    main(publish, publish_delayed, work)
