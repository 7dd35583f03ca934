"""Ending tasks."""

import asyncio
from collections.abc import Iterable
from typing import Any

AGAIN_SECONDS = 0.5


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
