"""The other side of the tests of interplay: python peer.py URL PART. It says what it sees, one line of JSON each."""

import asyncio
import json
import sys

from corral_client.asyncio import Corral, Task, Worker

url, part = sys.argv[1:]


def say(*what: object) -> None:
    print(json.dumps(what), flush=True)


async def main() -> None:
    corral = Corral.from_url(f"{url}?socket_timeout=60", redis_timeout=60)
    queue = corral.queue("both")

    @queue.task(tries=5)
    async def welcome(task: Task, to: str, n: int = 0) -> None:
        say("ran", task.id, task.attempt, to, n, dict(task.headers))

    @corral.cached("user:{id}", ttl=60)
    async def user(id: int) -> dict[str, str]:
        return {"from": "python", "name": "größe"}

    if part == "worker":
        async with Worker([queue], shutdown_timeout=60):
            say("ready")
            await asyncio.to_thread(sys.stdin.read)
    elif part == "publish":
        say(await welcome.options(headers={"tenant": "blue"}).publish(to="größe", n=1), await queue.publish("later", {"to": "ann"}))
    elif part == "cache":
        say(await user(1), await user(2))
        async with corral.lock("shared"):
            say("held")
            await asyncio.to_thread(sys.stdin.read)
    await corral.close()


asyncio.run(main())
