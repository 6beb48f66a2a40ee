"""Tasks with streaQ, with its default settings except for the number of tasks at a time."""
import asyncio
import os
import sys

from streaq import Worker
from tasks import PORT, QUEUE, batches, main, perform

AT_A_TIME = int(os.environ.get("AT_A_TIME", "16"))
worker = Worker(redis_url=f"redis://127.0.0.1:{PORT}", queue_name=f"streaq-{QUEUE}", concurrency=AT_A_TIME)


@worker.task
async def do(body: str) -> None:
    perform(body)


def publish(bodies):
    async def send():
        async with worker:
            for some in batches(bodies):
                await worker.enqueue_many([do.enqueue(body) for body in some])

    asyncio.run(send())


def work(count):
    os.environ["AT_A_TIME"] = str(count)
    os.execv(sys.executable, [sys.executable, "-m", "streaq", "run", "streaq_peer:worker"])


if __name__ == "__main__":
    main(publish, None, work)
