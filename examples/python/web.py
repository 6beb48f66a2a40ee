"""FastAPI with asyncio: a cached query, and tasks that run beside the web server.

Run it with `uvicorn web:app`.
"""

import asyncio
import os
from contextlib import asynccontextmanager

from corral_client.asyncio import Corral, Task, Worker
from fastapi import FastAPI

corral = Corral.from_url(os.environ.get("CORRAL_URL", "redis://localhost:6379"))
thumbnails = corral.queue("thumbnails")
made: list[str] = []


@corral.cached("article:{article_id}", ttl="5m", stale="1h", none_ttl="10s")
async def article(article_id: int) -> dict | None:
    await asyncio.sleep(0.1)  # the database
    return {"id": article_id, "title": f"Article {article_id}"} if article_id < 1000 else None


@thumbnails.task(tries=5, max_runtime="30s")
async def thumbnail(task: Task, article_id: int) -> None:
    await asyncio.sleep(0.1)
    made.append(f"{article_id}.png")


@asynccontextmanager
async def lifespan(app: FastAPI):
    async with corral, Worker([thumbnails], concurrency=20):
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/articles/{article_id}")
async def read(article_id: int):
    return await article(article_id)


@app.post("/articles/{article_id}")
async def write(article_id: int):
    await article.invalidate(article_id)
    return {"task": await thumbnail.publish(article_id=article_id)}


@app.get("/thumbnails")
async def list_thumbnails():
    return made
