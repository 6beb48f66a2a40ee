"""Tasks with the package of Corral for Python: one worker takes as many as it has room for."""
import asyncio

from corral_client.asyncio import Corral, Task, Worker
from tasks import PORT, QUEUE, main, perform

corral = Corral.from_url(f"redis://127.0.0.1:{PORT}")
queue = corral.queue(QUEUE)


@queue.task()
async def do(task: Task, body: str) -> None:
    perform(body)


def publish(bodies):
    async def send():
        async with corral:
            for start in range(0, len(bodies), 1000):
                await queue.publish_many([do.message(body) for body in bodies[start:start + 1000]])

    asyncio.run(send())


def work(count):
    async def run():
        async with corral, Worker([queue], concurrency=count):
            await asyncio.Event().wait()

    asyncio.run(run())


if __name__ == "__main__":
    main(publish, None, work)
