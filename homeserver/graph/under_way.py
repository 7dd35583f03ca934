"""What users are about by way of other servers: somebody there may answer it sooner than those servers do.

The replicas tell each other, since the one that hears of that answer need not be the one that waits for them.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from secrets import token_hex

import msgspec

from homeserver.bus.to_others import ToOthers

KIND = "under_way"
SETTLE_SECONDS = 5.0
"""So long what others send waits for what a user is about; the answer to that may wait for it in turn."""
ELSEWHERE_SECONDS = 60.0
"""So long what a user is about at another replica counts, should nobody say that it is done."""


class _Notice(msgspec.Struct, frozen=True, array_like=True):
    """Something has begun, or is done."""

    room_id: str
    user_id: str
    what: str
    done: bool


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Notice).decode


class UnderWay:
    """Knows of it, by room, or by room and user."""

    def __init__(self, to_others: ToOthers) -> None:
        self._to_others = to_others
        self._under_way: dict[tuple[str, str], dict[str, asyncio.Future[None]]] = {}
        to_others.subscribe(KIND, self._on_notice)

    @contextmanager
    def during(self, room_id: str, user_id: str = "") -> Iterator[None]:
        """While something is done that concerns a room, or with `user_id` only them there."""
        what = token_hex(8)
        self._begin(room_id, user_id, what)
        self._to_others.tell(KIND, _encode(_Notice(room_id, user_id, what, done=False)))
        try:
            yield
        finally:
            self._end(room_id, user_id, what)
            self._to_others.tell(KIND, _encode(_Notice(room_id, user_id, what, done=True)))

    async def settled(self, room_id: str, user_id: str = "") -> None:
        """Wait until what is under way now is written down."""
        if under_way := self._under_way.get((room_id, user_id)):
            await asyncio.wait(under_way.values(), timeout=SETTLE_SECONDS)

    def _on_notice(self, body: bytes) -> None:
        room_id, user_id, what, done = msgspec.structs.astuple(_decode(body))
        if done:
            self._end(room_id, user_id, what)
        else:
            self._begin(room_id, user_id, what)
            asyncio.get_running_loop().call_later(ELSEWHERE_SECONDS, self._end, room_id, user_id, what)

    def _begin(self, room_id: str, user_id: str, what: str) -> None:
        done = asyncio.get_running_loop().create_future()
        self._under_way.setdefault((room_id, user_id), {})[what] = done

    def _end(self, room_id: str, user_id: str, what: str) -> None:
        there = self._under_way.get((room_id, user_id), {})
        if (done := there.pop(what, None)) is None:
            return
        done.set_result(None)
        if not there:
            del self._under_way[room_id, user_id]
