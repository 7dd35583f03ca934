"""Receipts, read markers and typing (spec: client-server "Receipts", "Read markers", "Typing")."""

import msgspec

from client_api.http import Call, post, put
from homeserver.errors import forbidden
from homeserver.rooms.ephemeral import Typing
from homeserver.rooms.receipts import Receipts
from homeserver.rooms.rooms import Rooms
from rest.answers import Result
from rest.routes import Routes

DEFAULT_TYPING_MS = 30_000


class ReceiptBody(msgspec.Struct):
    thread_id: object = None


class TypingBody(msgspec.Struct):
    typing: bool
    timeout: int = DEFAULT_TYPING_MS


class ReceiptRoutes(Routes):
    def __init__(self, receipts: Receipts) -> None:
        self._receipts = receipts

    @post("/rooms/{room_id}/receipt/{kind}/{event_id}", quick=True, limit="ephemeral")
    async def receipt(self, call: Call) -> Result:
        await self._receipts.mark(
            call.path("room_id"),
            call.user_id,
            call.path("kind"),
            call.path("event_id"),
            call.json(ReceiptBody).thread_id,
        )
        return {}

    @post("/rooms/{room_id}/read_markers", limit="ephemeral")
    async def read_markers(self, call: Call) -> Result:
        await self._receipts.mark_all(call.path("room_id"), call.user_id, call.content())
        return {}


class TypingRoutes(Routes):
    def __init__(self, typing: Typing, rooms: Rooms) -> None:
        self._typing = typing
        self._rooms = rooms

    @put("/rooms/{room_id}/typing/{user_id}", quick=True, limit="ephemeral")
    async def set_typing(self, call: Call) -> Result:
        call.check_own()
        body = call.json(TypingBody)
        room = await self._rooms.get(call.path("room_id"))
        if room is None or call.user_id not in room.joined:
            raise forbidden("You are not in this room")
        self._typing.set(room.room_id, call.user_id, body.timeout if body.typing else None)
        return {}
