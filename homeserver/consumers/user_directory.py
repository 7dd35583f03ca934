"""The user directory (spec: client-server "User Directory"): a projection of the rooms' members, by word.

Each joined member is filed under their words: in public rooms (those that anyone may join or read)
for everyone, in others for that room's members. So whatever a look-up finds may be seen by who asks,
and the number of rooms that it looks into bounds its work. Of a room that goes on without this server,
as all its users have left, nobody is filed: who is in there is not told here any more.

Local users are filed with their profile, others as they are in the room. Entries are made from what
is true now, not from what the log entry says, so handling an entry again changes nothing.
"""

import asyncio
from collections.abc import Iterable, Sequence

from homeserver.bus.replica import Replica
from homeserver.consumers.user_directory_words import wanted_words, words_of_user
from homeserver.protocol.json_types import JsonObject
from homeserver.rooms.membership import MemberProfiles
from homeserver.rooms.redaction import redacted_key
from homeserver.rooms.room import Room
from homeserver.rooms.rooms import Rooms
from homeserver.rooms.servers import takes_part
from homeserver.users.ignoring import ignored_by
from homeserver.users.shared_rooms import SharedRooms
from homeserver.users.users import Users
from storage.collection import Collection
from storage.log import Entry, Kind
from storage.records.user_directory import EVERYONE, DirectoryRoom, DirectoryWord

OPENING_TYPES = ("m.room.join_rules", "m.room.history_visibility")
FILED_AT_ONCE = 50
MAX_NAME = 256
MAX_URL = 1000
MAX_SCANNED = 1000
"""Entries read of one scope."""
MAX_ROOMS = 300
"""How many of the asker's private rooms are looked into: those in which something happened last."""


class UserDirectory:
    """Files users (the handler behind the consumer "user_directory") and finds them."""

    def __init__(
        self,
        words: Collection[DirectoryWord],
        filed_rooms: Collection[DirectoryRoom],
        rooms: Rooms,
        users: Users,
        shared_rooms: SharedRooms,
        profiles: MemberProfiles,
        replica: Replica,
        server_name: str,
    ) -> None:
        self._words = words
        self._filed_rooms = filed_rooms
        self._rooms = rooms
        self._users = users
        self._shared_rooms = shared_rooms
        self._profiles = profiles
        self._replica = replica
        self._server_name = server_name
        self._filing = asyncio.Lock()
        """Rooms of several shards may file the same user under EVERYONE."""

    # Filing

    @staticmethod
    def wants(entry: Entry) -> bool:
        if entry.kind in (Kind.EVENT, Kind.STATE) and entry.key is not None and entry.type in OPENING_TYPES:
            return True
        return _member_of(entry) is not None

    async def handle(self, shard: int, entries: Sequence[Entry]) -> None:
        members: dict[str, dict[str, None]] = {}
        for entry in entries:
            of_room = members.setdefault(entry.stream, {})
            if (member := _member_of(entry)) is not None:
                of_room[member] = None
        async with self._filing:
            for room_id, changed in members.items():
                if (room := await self._rooms.get(room_id)) is not None:
                    await self._file_room(room, changed)

    async def _file_room(self, room: Room, changed: Iterable[str]) -> None:
        """File these users of a room; all of it, if it became public or private."""
        filed = await self._filed_rooms.get(room.room_id)
        public = is_public(room) if takes_part(room, self._server_name) else None
        if public == (None if filed is None else filed.public):
            await self._file(room, changed, public)
            return
        everyone = list(dict.fromkeys((*room.joined, *changed)))
        for first in range(0, len(everyone), FILED_AT_ONCE):
            await self._file(room, everyone[first : first + FILED_AT_ONCE], public)
        # Last, so that a crash half-way lets it begin anew.
        if public is None:
            await self._filed_rooms.delete(room.room_id)
        else:
            await self._filed_rooms.put(DirectoryRoom(room_id=room.room_id, public=public))

    async def _file(self, room: Room, user_ids: Iterable[str], public: bool | None) -> None:
        """File users of the room as they are now; `public` is None where this server takes no part in it."""
        added: list[DirectoryWord] = []
        for user_id in user_ids:
            joined = public is not None and user_id in room.joined
            face = await self._face(room, user_id) if joined else {}
            added += await self._refile(room.room_id, user_id, face if joined and not public else None)
            if joined and public:
                added += await self._refile(EVERYONE, user_id, face)
            elif await self._words.find("key", (EVERYONE, user_id), limit=1):
                await self._withdraw(user_id, room.room_id)
        if added:
            await self._words.put_many(added)

    async def _withdraw(self, user_id: str, left: str) -> None:
        """Have a user found by everyone no more, unless there is another public room than the one left."""
        if not await self._is_in_public(user_id, left):
            # Whoever files them for the other room may be another replica.
            await self._replica.refresh(self._rooms.shards.room_shards())
            if not await self._is_in_public(user_id, left):
                await self._refile(EVERYONE, user_id, None)

    async def _face(self, room: Room, user_id: str) -> JsonObject:
        """Display name and avatar, in so far as they are well-formed."""
        if self._users.is_local(user_id):
            face = await self._profiles.member_profile(user_id)
        else:
            face = room.state_content("m.room.member", user_id)
        name, url = face.get("displayname"), face.get("avatar_url")
        return {
            "display_name": name[:MAX_NAME] if isinstance(name, str) and name else None,
            "avatar_url": url
            if isinstance(url, str) and url.startswith("mxc://") and len(url) <= MAX_URL
            else None,
        }

    async def _is_in_public(self, user_id: str, but: str) -> bool:
        """Whether the user is in a public room, as it is filed or will be, other than the given one."""
        others = {room_id for room_id in await self._shared_rooms.of(user_id) if room_id != but}
        filed = await self._filed_rooms.get_many([(room_id,) for room_id in others])
        if any(room.public for room in filed):
            return True
        for room_id in others.difference(room.room_id for room in filed):
            room = await self._rooms.get(room_id)
            if room is not None and takes_part(room, self._server_name) and is_public(room):
                return True
        return False

    async def _refile(self, scope: str, user_id: str, face: JsonObject | None) -> list[DirectoryWord]:
        """Take back what else is filed of a user in a scope, with None all; what is to be added."""
        old = await self._words.find("key", (scope, user_id))
        words = words_of_user(user_id, face["display_name"]) if face is not None else []
        new = [DirectoryWord(scope=scope, user_id=user_id, word=word, **face or {}) for word in words]
        for word in old:
            if word.word not in words:
                await self._words.delete(scope, user_id, word.word)
        return [word for word in new if word not in old]

    # Finding

    async def search(self, user_id: str, term: str, limit: int) -> tuple[list[DirectoryWord], bool]:
        """Users whose words begin with those of the term, the best first; and whether there are more."""
        wanted = wanted_words(term)
        if not wanted[0]:
            return [], False
        ignored = ignored_by(await self._users.get(user_id))
        found: dict[str, DirectoryWord] = {}
        more = False
        for scope in (EVERYONE, *await self._private_rooms(user_id)):
            entries = await self._words.find_prefix(
                "by_word", (scope,), max(wanted, key=len), limit=MAX_SCANNED
            )
            more = more or len(entries) == MAX_SCANNED
            for entry in entries:
                if entry.user_id != user_id and entry.user_id not in ignored:
                    found.setdefault(entry.user_id, entry)
        ranked = sorted(
            (rank, entry.user_id) for entry in found.values() if (rank := _rank(entry, wanted)) is not None
        )
        return [found[other] for _, other in ranked[:limit]], more or len(ranked) > limit

    async def _private_rooms(self, user_id: str) -> Sequence[str]:
        joined = (await self._users.get(user_id)).rooms("join")
        filed = await self._filed_rooms.get_many([(room_id,) for room_id in joined])
        activity = self._rooms.activity
        private = [room.room_id for room in filed if not room.public]
        return sorted(private, key=lambda room_id: -activity.get(room_id, 0))[:MAX_ROOMS]


def _member_of(entry: Entry) -> str | None:
    """Whose member event an entry sets, or redacts."""
    if entry.kind in (Kind.EVENT, Kind.STATE) and entry.key is not None:
        return entry.key if entry.type == "m.room.member" else None
    redacted = redacted_key(entry)
    return redacted[1] if redacted is not None and redacted[0] == "m.room.member" else None


def is_public(room: Room) -> bool:
    """Whether anyone may join or read the room."""
    return room.join_rule == "public" or room.history_visibility == "world_readable"


def _rank(entry: DirectoryWord, wanted: Iterable[str]) -> tuple[int, bool, bool] | None:
    """For sorting: more whole words first, then those with a name and a picture; None for no match."""
    words = words_of_user(entry.user_id, entry.display_name)
    whole = 0
    for want in wanted:
        if want in words:
            whole += 1
        elif not any(word.startswith(want) for word in words):
            return None
    return -whole, entry.display_name is None, entry.avatar_url is None
