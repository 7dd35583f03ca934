"""The event closest to a time (spec: client-server GET /rooms/{roomId}/timestamp_to_event)."""

from homeserver.errors import not_found
from homeserver.protocol.json_types import JsonObject
from homeserver.rooms.access import RoomAccess
from homeserver.rooms.history import MAX_FETCHES, MAX_PAGES, History
from homeserver.rooms.reading_order import lower_end
from homeserver.rooms.room import Room
from homeserver.rooms.room_event import RoomEvent
from homeserver.rooms.rooms import Rooms
from homeserver.rooms.visibility import SightLine, Visibility
from storage.log import Kind


class TimestampToEvent:
    """Finds it for local users."""

    def __init__(self, rooms: Rooms, access: RoomAccess, visibility: Visibility, history: History) -> None:
        self._rooms = rooms
        self._access = access
        self._visibility = visibility
        self._history = history

    async def find(self, room_id: str, user_id: str, *, ts: int, forwards: bool) -> JsonObject:
        """The visible event closest to a time, on one side of it. Raises 404 when there is none."""
        access = await self._access.of(room_id, user_id)
        room = access.room
        await self._reach_back(room, ts)
        line = await self._visibility.sight_line(room, user_id)
        entry = await self._rooms.log.near_time(room.shard, room_id, ts, forwards=forwards)
        hidden: RoomEvent | None = None
        for _ in range(MAX_PAGES):
            if entry is None or entry.kind is not Kind.EVENT:
                raise not_found("There is no event near that time")
            (view,) = await self._rooms.stored.views(room_id, [entry])
            if line.sees(view):
                return {"event_id": view.event_id, "origin_server_ts": view.ts}
            hidden = view
            step = view.ts + 1 if forwards else view.ts - 1
            entry = await self._rooms.log.near_time(room.shard, room_id, step, forwards=forwards)
        assert hidden is not None
        found = await self._behind_hidden(room, line, hidden.position, forwards=forwards)
        if found is None or (found.ts < ts if forwards else found.ts > ts):
            raise not_found("There is no event near that time")
        return {"event_id": found.event_id, "origin_server_ts": found.ts}

    async def _behind_hidden(
        self, room: Room, line: SightLine, position: int, *, forwards: bool
    ) -> RoomEvent | None:
        """The visible event next to a long stretch of hidden ones, in the order of the timeline."""
        for _ in range(MAX_PAGES):
            nearest = line.nearest_seen(position, forwards=forwards)
            if nearest is None:
                return None
            page = await self._rooms.stored.page(
                room.room_id,
                after=nearest - 1 if forwards else None,
                before=None if forwards else nearest + 1,
                newest_first=not forwards,
                limit=1,
            )
            if not page or line.sees(page[0]):
                return page[0] if page else None
            position = page[0].position
        return None

    async def _reach_back(self, room: Room, ts: int) -> None:
        """Have the room known back to a time, if that can be had with a few batches."""
        if room.is_whole and len(room.gaps) == 1:
            return
        for gap in sorted(room.gaps, reverse=True):
            end = lower_end(gap)
            if any(each.ts >= ts for each in await self._history.neighbours(room, end, 1, backwards=True)):
                continue
            for _ in range(MAX_FETCHES):
                oldest = await self._history.neighbours(room, end, 1, backwards=False)
                if not oldest or oldest[0].ts <= ts:
                    return
                if not await self._history.earlier.fetch(room, gap):
                    break
