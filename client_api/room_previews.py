"""Looking into rooms without joining, and what was before /sync (spec: client-server "Room Previews",
"Syncing")."""

from client_api.http import Auth, Call, get
from homeserver.protocol.identifiers import check_event_id
from homeserver.sync.event_stream import EventStream
from rest.answers import Result
from rest.routes import Routes

DEFAULT_TIMEOUT_MS = 30_000
DEFAULT_LIMIT = 10
MAX_LIMIT = 100


class RoomPreviewRoutes(Routes):
    def __init__(self, stream: EventStream) -> None:
        self._stream = stream

    @get("/rooms/{room_id}/initialSync", auth=Auth.GUEST)
    async def room_snapshot(self, call: Call) -> Result:
        return await self._stream.room_snapshot(call.path("room_id"), call.session, limit=_limit(call))

    @get("/initialSync")
    async def snapshot(self, call: Call) -> Result:
        archived = call.bool_query("archived")
        return await self._stream.snapshot(call.session, limit=_limit(call), archived=archived)

    @get("/events", auth=Auth.GUEST)
    async def events(self, call: Call) -> Result:
        return await self._stream.after(
            call.session,
            call.query("from"),
            room_id=call.query("room_id"),
            timeout_ms=call.int_query("timeout", DEFAULT_TIMEOUT_MS),
        )

    @get("/events/{event_id}")
    async def event(self, call: Call) -> Result:
        return await self._stream.event(call.session, check_event_id(call.path("event_id")))


def _limit(call: Call) -> int:
    return call.int_query("limit", DEFAULT_LIMIT, most=MAX_LIMIT)
