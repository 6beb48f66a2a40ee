"""Cancels a coroutine at each of its steps in turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from typing import Any


class _Steps:
    """Counts the steps of a coroutine, and cancels its task at one of them."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], at: int) -> None:
        self._coroutine, self._at, self.steps = coroutine, at, 0

    def __await__(self) -> Generator[Any, Any, Any]:
        iterator = self._coroutine.__await__()
        value: Any = None
        error: BaseException | None = None
        while True:
            self.steps += 1
            if self.steps == self._at:
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
            try:
                future = iterator.send(value) if error is None else iterator.throw(error)
            except StopIteration as done:
                return done.value
            try:
                value, error = (yield future), None
            except BaseException as raised:
                value, error = None, raised


def canceled_at(step: int, work: Callable[[], Coroutine[Any, Any, Any]]) -> bool:
    """Runs `work` in a loop of its own, canceled at this step. False if it ended before."""

    async def main() -> bool:
        steps = _Steps(work(), step)

        async def run() -> None:
            await steps

        try:
            await asyncio.create_task(run())
        except asyncio.CancelledError:
            return True
        return steps.steps >= step

    return asyncio.run(main())
