"""The public directory of rooms (spec: client-server "Published rooms").

A published room's entry follows the room through a consumer of the log, so listing and searching
read the directory alone. The largest rooms come first.
"""

from collections.abc import Sequence

from homeserver.bus.consumer import Handle
from homeserver.errors import forbidden, invalid_param, not_found
from homeserver.protocol.json_types import JsonObject
from homeserver.rooms.foreign_rooms import Wanted
from homeserver.rooms.redaction import power_levels, redacted_key
from homeserver.rooms.rooms import Rooms
from homeserver.rooms.summary import chunk_of, published_of
from storage.collection import Collection
from storage.log import Entry, Kind
from storage.records.rooms import PublishedRoom

PAGE = 500
MAX_SCANNED = 20_000
DEFAULT_LIMIT = 100
MAX_LIMIT = 500
SHOWN_TYPES = frozenset(
    {
        "m.room.member",
        "m.room.name",
        "m.room.topic",
        "m.room.avatar",
        "m.room.canonical_alias",
        "m.room.join_rules",
        "m.room.history_visibility",
        "m.room.guest_access",
    }
)


class Directory:
    """Publishes rooms and lists them; the handler behind the consumer "directory"."""

    def __init__(self, published: Collection[PublishedRoom], rooms: Rooms, *, anyone_publishes: bool) -> None:
        self._published = published
        self._rooms = rooms
        self._anyone_publishes = anyone_publishes
        self.handle: Handle = self._refresh

    @staticmethod
    def wants(entry: Entry) -> bool:
        if entry.kind in (Kind.EVENT, Kind.STATE) and entry.key is not None:
            return entry.type in SHOWN_TYPES
        redacted = redacted_key(entry)
        return redacted is not None and redacted[0] in SHOWN_TYPES

    async def _refresh(self, shard: int, entry: Entry) -> None:
        old = await self._published.get(entry.stream)
        if old is None:
            return
        room = await self._rooms.get(entry.stream)
        if room is not None and (new := published_of(room)) != old:
            await self._published.replace_if(old, new)

    async def is_published(self, room_id: str) -> bool:
        """Raises 404 for an unknown room."""
        if await self._rooms.get(room_id) is None:
            raise not_found("This server does not know the room")
        return await self._published.get(room_id) is not None

    async def set_published(self, room_id: str, user_id: str, published: bool, *, is_admin: bool) -> None:
        """By those who may set the room's canonical alias, and admins. Raises 403, 404."""
        room = await self._rooms.get(room_id)
        if room is None:
            raise not_found("This server does not know the room")
        if not is_admin:
            # Who they are there may have changed at another replica just now.
            await self._rooms.catch_up(room)
            levels = power_levels(room.version, room.head.lookup)
            needed = levels.event_level("m.room.canonical_alias", is_state=True)
            if user_id not in room.joined or levels.user_level(user_id) < needed:
                raise forbidden("You may not change the room's place in the directory")
        await self.publish(room_id, published, is_admin=is_admin)

    def check_publishing(self, *, is_admin: bool) -> None:
        """Raises 403 where only admins publish rooms."""
        if not (is_admin or self._anyone_publishes):
            raise forbidden("Only administrators publish rooms on this server")

    async def publish(self, room_id: str, published: bool, *, is_admin: bool = False) -> None:
        """Raises 403 where only admins publish rooms."""
        if not published:
            await self._published.delete(room_id)
            return
        self.check_publishing(is_admin=is_admin)
        room = await self._rooms.get(room_id)
        if room is not None:
            await self._published.put(published_of(room))

    async def page(self, wanted: Wanted) -> JsonObject:
        """A page of the directory; no room is of a third-party network here. Raises 400."""
        skip = _decode_since(wanted.since)
        limit = DEFAULT_LIMIT if wanted.limit is None else max(1, min(wanted.limit, MAX_LIMIT))
        rooms = await self._all() if wanted.network is None else ()
        matching = [room for room in rooms if _matches(room, wanted.search, wanted.room_types)]
        answer: JsonObject = {
            "chunk": [chunk_of(room) for room in matching[skip : skip + limit]],
            "total_room_count_estimate": len(matching),
        }
        if skip + limit < len(matching):
            answer["next_batch"] = f"d{skip + limit}"
        if skip > 0:
            answer["prev_batch"] = f"d{max(0, skip - limit)}"
        return answer

    async def _all(self) -> list[PublishedRoom]:
        """All entries, by members; entries of equally many members by room id."""
        found: list[PublishedRoom] = []
        after: str | None = None
        while len(found) < MAX_SCANNED:
            page = await self._published.find("key", after=after, limit=PAGE)
            found.extend(page)
            if len(page) < PAGE:
                break
            after = page[-1].room_id
        found.sort(key=lambda room: (-room.members, room.room_id))
        return found


def _matches(room: PublishedRoom, search: str | None, room_types: Sequence[str | None] | None) -> bool:
    if room_types is not None and room.room_type not in room_types:
        return False
    if not search:
        return True
    wanted = search.casefold()
    return any(
        wanted in text.casefold()
        for text in (room.name, room.topic, room.canonical_alias)
        if text is not None
    )


def _decode_since(since: str | None) -> int:
    if not since:
        return 0
    digits = since[1:]
    if not since.startswith("d") or not digits.isascii() or not digits.isdigit() or len(digits) > 9:
        raise invalid_param("since: not a token of this directory")
    return int(digits)
