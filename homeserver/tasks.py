"""Waiting for tasks, and ending them."""

import asyncio
from collections.abc import Awaitable, Iterable, Sequence
from typing import Any, TypeVar

AGAIN_SECONDS = 0.5

T = TypeVar("T")


async def all_of(awaitables: Sequence[Awaitable[T]]) -> list[T]:
    """What `asyncio.gather` returns; where there is one or none, which is the rule, without a task for it."""
    if len(awaitables) > 1:
        return await asyncio.gather(*awaitables)
    return [await only for only in awaitables]


async def end(tasks: Iterable["asyncio.Task[Any] | None"]) -> None:
    """Cancel tasks and wait until all have ended, however they do.

    They are told again and again: `asyncio.wait_for` before Python 3.12 drops a cancellation that comes
    with the result, and drivers take one for a lost connection, upon which a task tries again for ever.
    """
    running = {task for task in tasks if task is not None and not task.done()}
    while running:
        for task in running:
            task.cancel()
        _, running = await asyncio.wait(running, timeout=AGAIN_SECONDS)
