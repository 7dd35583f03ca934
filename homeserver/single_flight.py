"""Many want the same at once: one gets it, all have it."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from homeserver.tasks import end

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class SingleFlight(Generic[K, V]):
    """One call per key at a time; who comes while it runs gets its outcome.

    A caller that is cancelled leaves the call running for the others. The calls bound their own time.
    """

    def __init__(self) -> None:
        self._running: dict[K, asyncio.Task[V]] = {}

    async def run(self, key: K, call: Callable[[], Awaitable[V]]) -> V:
        task = self._running.get(key)
        if task is None:

            async def flight() -> V:
                try:
                    return await call()
                finally:
                    self._running.pop(key, None)

            task = self._running[key] = asyncio.create_task(flight(), name=f"single-flight {key}")
            task.add_done_callback(_heard)
        return await asyncio.shield(task)

    async def close(self) -> None:
        """End the calls that run."""
        await end(self._running.values())
        self._running.clear()


def _heard(task: asyncio.Task[V]) -> None:
    """An outcome that nobody waits for any more is no news for the event loop."""
    if not task.cancelled():
        task.exception()
