"""What happens in rooms without being kept: who is typing (spec: client-server "Typing Notifications").

Each change is a message on the bus, and numbered by the message's position: all replicas apply the same
changes in the same order under the same numbers, so a since-token says at any of them which changes a
client has seen.
"""

import asyncio
from collections.abc import Callable

import msgspec
import orjson

from homeserver.bus.bus import Bus
from homeserver.rooms.room import Room
from homeserver.rooms.room_event import RoomEvent
from homeserver.rooms.told_ephemeral import ToldEphemeral
from storage.log import Entry

KIND = "typing"
MAX_TYPING_MS = 120_000
NET_MS = 5_000
"""How much longer the other replicas wait for the end, should the one where a typing began be gone."""


class EphemeralClock:
    """The position of the newest message about anything ephemeral that was applied here."""

    def __init__(self) -> None:
        self.now = 0

    def advance(self, position: int) -> None:
        self.now = max(self.now, position)


class _Notice(msgspec.Struct, frozen=True, array_like=True):
    """A user types for so long, or types no more."""

    origin: str
    room_id: str
    user_id: str
    timeout_ms: int | None


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Notice).decode


class Typing:
    """Who is typing where. A user's typing ends by itself after its timeout: its origin says so to all."""

    def __init__(
        self,
        bus: Bus,
        origin: str,
        clock: EphemeralClock,
        told: ToldEphemeral,
        on_change: Callable[[str], None],
    ) -> None:
        """`origin` is what this replica is called."""
        self._bus = bus
        self._origin = origin
        self._clock = clock
        self._told = told
        self._on_change = on_change
        self._timers: dict[tuple[str, str], asyncio.TimerHandle] = {}
        self._begun_here: set[tuple[str, str]] = set()
        self._typing: dict[str, list[str]] = {}
        self.changed: dict[str, int] = {}
        """Room → number of its last change."""
        bus.subscribe(KIND, self._on_notice)

    def set(self, room_id: str, user_id: str, timeout_ms: int | None) -> None:
        """Start (or prolong) typing for `timeout_ms`, or stop it with None."""
        if timeout_ms is not None:
            timeout_ms = min(max(timeout_ms, 1), MAX_TYPING_MS)
        self._bus.tell(KIND, _encode(_Notice(self._origin, room_id, user_id, timeout_ms)))
        self._told.typing(room_id, user_id, typing=timeout_ms is not None)

    def end(self) -> None:
        """End what began here: nobody would, once this process is gone (shutdown)."""
        for room_id, user_id in list(self._begun_here):
            self.set(room_id, user_id, None)

    def on_room_entry(self, shard: int, entry: Entry, room: Room | None, view: RoomEvent | None) -> None:
        """Follows the room shards: who is no longer in a room does not type there."""
        if (
            room is not None
            and entry.type == "m.room.member"
            and entry.key in self.users(room.room_id)
            and entry.key not in room.joined
        ):
            self.set(room.room_id, entry.key, None)

    def _on_notice(self, position: int, body: bytes) -> None:
        notice = _decode(body)
        room_id, user_id = notice.room_id, notice.user_id
        timer = self._timers.pop((room_id, user_id), None)
        if timer is not None:
            timer.cancel()
        self._begun_here.discard((room_id, user_id))
        users = self._typing.setdefault(room_id, [])
        if notice.timeout_ms is not None:
            here = notice.origin == self._origin
            if here:
                self._begun_here.add((room_id, user_id))
            lasts_ms = notice.timeout_ms + (0 if here else NET_MS)
            loop = asyncio.get_running_loop()
            self._timers[room_id, user_id] = loop.call_later(
                lasts_ms / 1000, self.set, room_id, user_id, None
            )
            if user_id not in users:
                users.append(user_id)
                self._change(room_id, position)
        elif user_id in users:
            users.remove(user_id)
            self._change(room_id, position)
        elif room_id not in self.changed:
            # Clients may have been told that they type before this process began (it was killed).
            self._change(room_id, position)
        if not users:
            del self._typing[room_id]

    def users(self, room_id: str) -> list[str]:
        return self._typing.get(room_id, [])

    def event(self, room_id: str) -> bytes:
        """The `m.typing` event."""
        return orjson.dumps({"type": "m.typing", "content": {"user_ids": self.users(room_id)}})

    def _change(self, room_id: str, position: int) -> None:
        self._clock.advance(position)
        self.changed[room_id] = position
        self._on_change(room_id)
