"""Tasks with Taskiq, on streams, with its default settings."""
import asyncio
import os
import sys

from taskiq_redis import RedisStreamBroker
from tasks import PORT, QUEUE, main, perform

broker = RedisStreamBroker(url=f"redis://127.0.0.1:{PORT}", queue_name=f"taskiq-{QUEUE}")


@broker.task
async def do(body):
    perform(body)


def publish(bodies):
    async def send():
        await broker.startup()
        for body in bodies:
            await do.kiq(body)
        await broker.shutdown()

    asyncio.run(send())


def work(count):
    arguments = ["worker", "taskiq_peer:broker", "--workers", "1", "--max-async-tasks", str(count), "--log-level", "ERROR"]
    os.execv(sys.executable, [sys.executable, "-m", "taskiq", *arguments])


if __name__ == "__main__":
    main(publish, None, work)
