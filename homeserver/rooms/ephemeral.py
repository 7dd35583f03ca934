"""What happens in rooms without being kept: who is typing (spec: client-server "Typing Notifications").

Changes are numbered by one `EphemeralClock` for the whole process, so that a since-token can say
which of them a client has seen. The numbers begin at the time of start in ms: they never go back.
"""

import asyncio
from collections.abc import Callable

import orjson

MAX_TYPING_MS = 120_000


class EphemeralClock:
    """Numbers the changes of everything ephemeral."""

    def __init__(self, start: int) -> None:
        self.now = start

    def tick(self) -> int:
        self.now += 1
        return self.now


class Typing:
    """Who is typing where. A user's typing ends by itself after its timeout."""

    def __init__(self, clock: EphemeralClock, on_change: Callable[[str], None]) -> None:
        self._clock = clock
        self._on_change = on_change
        self._timers: dict[tuple[str, str], asyncio.TimerHandle] = {}
        self._typing: dict[str, list[str]] = {}
        self.changed: dict[str, int] = {}
        """Room → number of its last change."""

    def set(self, room_id: str, user_id: str, timeout_ms: int | None) -> None:
        """Start (or prolong) typing for `timeout_ms`, or stop it with None."""
        timer = self._timers.pop((room_id, user_id), None)
        if timer is not None:
            timer.cancel()
        users = self._typing.setdefault(room_id, [])
        if timeout_ms is not None:
            seconds = min(max(timeout_ms, 1), MAX_TYPING_MS) / 1000
            loop = asyncio.get_running_loop()
            self._timers[room_id, user_id] = loop.call_later(seconds, self.set, room_id, user_id, None)
            if user_id not in users:
                users.append(user_id)
                self._change(room_id)
        elif user_id in users:
            users.remove(user_id)
            self._change(room_id)
        if not users:
            del self._typing[room_id]

    def users(self, room_id: str) -> list[str]:
        return self._typing.get(room_id, [])

    def event(self, room_id: str) -> bytes:
        """The `m.typing` event."""
        return orjson.dumps({"type": "m.typing", "content": {"user_ids": self.users(room_id)}})

    def _change(self, room_id: str) -> None:
        self.changed[room_id] = self._clock.tick()
        self._on_change(room_id)
