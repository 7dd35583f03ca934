"""Waiting long-polls: one future per waiting device, nothing more.

A device's new poll ends its old one. Something new for a user wakes the user's devices; something
new in a room wakes those of its members that wait (the smaller of the two sets is walked).
"""

import asyncio
from collections.abc import Collection, Iterable


class LongPolls:
    """The table of waiting polls, by user."""

    def __init__(self) -> None:
        self._waiting: dict[str, dict[str, asyncio.Future[bool]]] = {}
        self.count = 0
        self._closed = False

    async def wait(self, user_id: str, slot: str, timeout: float) -> bool:
        """Wait up to `timeout` seconds for news; False when the poll is to be answered without any.

        `slot` tells a device's polls apart (device and kind of sync): a new one in the same slot
        ends the old one at once.
        """
        if self._closed:
            return False
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bool] = loop.create_future()
        slots = self._waiting.setdefault(user_id, {})
        old = slots.get(slot)
        if old is not None:
            _finish(old, False)
        else:
            self.count += 1
        slots[slot] = future
        timer = loop.call_later(timeout, _finish, future, False)
        try:
            return await future
        finally:
            timer.cancel()
            if slots.get(slot) is future:
                del slots[slot]
                self.count -= 1
                if not slots and self._waiting.get(user_id) is slots:
                    del self._waiting[user_id]

    def wake_user(self, user_id: str) -> None:
        """Something new for one user."""
        for future in self._waiting.get(user_id, {}).values():
            _finish(future, True)

    def wake_among(self, members: Collection[str]) -> None:
        """Something new for whichever of `members` wait."""
        waiting = self._waiting
        if len(members) <= len(waiting):
            for user_id in members:
                if user_id in waiting:
                    self.wake_user(user_id)
        else:
            for user_id in [user_id for user_id in waiting if user_id in members]:
                self.wake_user(user_id)

    def end_user(self, user_id: str) -> None:
        """Let one user's polls be answered now, news or not (a session of the user may have ended)."""
        for future in self._waiting.get(user_id, {}).values():
            _finish(future, False)

    def users(self) -> Iterable[str]:
        return self._waiting.keys()

    def close(self) -> None:
        """Let every poll be answered now, and those still to come at once (shutdown)."""
        self._closed = True
        for slots in self._waiting.values():
            for future in slots.values():
                _finish(future, False)


def _finish(future: asyncio.Future[bool], news: bool) -> None:
    if not future.done():
        future.set_result(news)
