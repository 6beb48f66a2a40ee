"""Tasks with the package of Corral for Python: one worker takes as many as it has room for."""
import asyncio

from corral_client.asyncio import Corral, Task, Worker
from tasks import PORT, QUEUE, batches, main, perform

corral = Corral.from_url(f"redis://127.0.0.1:{PORT}")
queue = corral.queue(QUEUE)


@queue.task()
async def do(task: Task, body: str) -> None:
    perform(body)


def publish(bodies):
    async def send():
        async with corral:
            for some in batches(bodies):
                await queue.publish_many([do.message(body) for body in some])

    asyncio.run(send())


def work(count):
    async def run():
        async with corral, Worker([queue], concurrency=count):
            await asyncio.Event().wait()

    asyncio.run(run())


if __name__ == "__main__":
    main(publish, None, work)
