"""What runs on one server, and can be killed there and then."""

import asyncio
from collections.abc import Coroutine
from contextvars import ContextVar, copy_context
from typing import Any, TypeVar

from homeserver.tasks import AGAIN_SECONDS

T = TypeVar("T")

_PROCESS: ContextVar["Process | None"] = ContextVar("process", default=None)


class Killed(Exception):
    """The process has ended in the middle of it."""


class Process:
    """The tasks that were begun in it, or by one of them, be it by way of a timer."""

    def __init__(self) -> None:
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self.alive = True

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The outcome of something that is done in the process. Raises Killed."""
        task = self.spawn(work)
        # Whoever waits may go away: what was begun goes on.
        await asyncio.wait([task])
        if not self.alive:
            raise Killed
        return task.result()

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        context = copy_context()
        context.run(_PROCESS.set, self)
        return asyncio.create_task(work, context=context)

    async def kill(self) -> None:
        """End all of it, wherever it is."""
        self.alive = False
        while self._tasks:
            # In the order in which they were begun, so that a seed takes the same course again.
            for task in list(self._tasks):
                task.cancel()
            await asyncio.wait(list(self._tasks), timeout=AGAIN_SECONDS)

    def _own(self, task: asyncio.Task[Any]) -> None:
        self._tasks[task] = None
        task.add_done_callback(self._tasks.pop)
        if not self.alive:
            task.cancel()


def own(task: asyncio.Task[Any], context: Any) -> None:
    """To be told of each new task, and of the context that it was given, if any."""
    process = _PROCESS.get() if context is None else context.get(_PROCESS)
    if process is not None:
        process._own(task)
