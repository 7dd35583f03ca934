"""The poll of simplified sliding sync (MSC4186): answers at once when there is news, else waits."""

import asyncio
from collections.abc import Mapping
from typing import NamedTuple

import msgspec
import orjson

from homeserver.rooms.broken_rooms import LeftOutIfBroken
from homeserver.rooms.outline import Outline
from homeserver.rooms.rendering import Reader
from homeserver.rooms.room import Room
from homeserver.rooms.rooms import Rooms
from homeserver.rooms.visibility import Visibility
from homeserver.since_tokens import SyncToken
from homeserver.sync.engine import MAX_TIMEOUT_MS, SyncEngine
from homeserver.sync.long_polls import LongPolls
from homeserver.sync.sliding.connection import Connections, Snapshot
from homeserver.sync.sliding.extensions import ExtensionSections, Looked
from homeserver.sync.sliding.lists import PRESENT, Listed, direct_rooms, matching, rooms_of, window
from homeserver.sync.sliding.request import RoomConfig, SlidingRequest
from homeserver.sync.sliding.rooms import Had, RoomSections, Wish
from homeserver.users.users import User, Users
from storage.records.sliding_sync import SentRoom, SentRooms

MAX_ROOMS_PER_ANSWER = 200


class Answer(NamedTuple):
    """What comes behind `pos`, and what the client has then."""

    body: bytes
    sent: SentRooms
    members: Mapping[str, frozenset[str]]
    news: bool
    """Whether it shows anything new."""


class SlidingSync:
    """Answers sliding-sync requests of all devices."""

    def __init__(
        self,
        *,
        rooms: Rooms,
        visibility: Visibility,
        users: Users,
        long_polls: LongPolls,
        sync: SyncEngine,
        sections: RoomSections,
        extensions: ExtensionSections,
        connections: Connections,
    ) -> None:
        self._rooms = rooms
        self._visibility = visibility
        self._users = users
        self._long_polls = long_polls
        self._sync = sync
        self._sections = sections
        self._extensions = extensions
        self._connections = connections

    async def poll(
        self, user_id: str, device_id: str, request: SlidingRequest, *, pos: str | None, timeout: int
    ) -> bytes:
        """The answer as JSON bytes; `timeout` in ms. Raises 400, M_UNKNOWN_POS among them."""
        request.check()
        connection = (user_id, device_id, request.conn_id)
        before: Snapshot | None = None
        since: SyncToken | None = None
        if pos is not None:
            before = await self._connections.snapshot(connection, pos)
            since = self._sync.in_time(before.position)
            before = msgspec.structs.replace(before, position=since)
        await self._sync.follow(user_id, since)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + min(max(timeout, 0), MAX_TIMEOUT_MS) / 1000
        while True:
            user = await self._users.get(user_id)
            upto = self._sync.position(user, since)
            answer = await self._answer(user, device_id, request, before, upto)
            if answer.news or before is None or loop.time() >= deadline:
                new_pos = await self._connections.remember(
                    connection, before, upto, answer.sent, answer.members
                )
                return b'{"pos":"' + new_pos.encode() + b'",' + answer.body + b"}"
            if self._sync.position(user, since) == upto:
                del user, answer
                slot = f"{device_id} {request.conn_id}"
                if not await self._long_polls.wait(user_id, slot, deadline - loop.time()):
                    deadline = loop.time()

    async def _answer(
        self, user: User, device_id: str, request: SlidingRequest, before: Snapshot | None, upto: SyncToken
    ) -> Answer:
        listed = await rooms_of(self._rooms, self._visibility, user)
        looked, wishes, counts = await self._looked(user, request, listed)
        had_rooms = before.sent.rooms if before is not None else {}
        sent: dict[str, SentRoom] = {}
        members = dict(before.members) if before is not None else {}
        ignored = user.global_data("m.ignored_user_list").get("ignored_users")
        reader = Reader(
            user.user_id, device_id, frozenset(ignored) if isinstance(ignored, dict) else frozenset()
        )
        direct = direct_rooms(user)
        results: list[bytes] = []
        behind: dict[str, int] = {}
        for known, ref in listed:
            room_id, shard = known.room_id, known.shard
            wish = wishes.get(room_id)
            if wish is None:
                continue
            with LeftOutIfBroken(room_id):
                had = _had(before, known)
                if ref.membership == "join":
                    looked.joined[room_id] = known
                    if before is not None and (had is None or had.sent.upto is not None):
                        behind[room_id] = 0 if had is None else had.upto
                    is_direct = room_id in direct
                    if had is not None and had.is_all(known, wish, upto.rooms[shard], direct=is_direct):
                        sent[room_id] = msgspec.structs.replace(had.sent, upto=None)
                        members[room_id] = had.members
                        continue
                    if len(results) >= MAX_ROOMS_PER_ANSWER:
                        continue
                    room = await self._rooms.get(room_id)
                    if room is None:
                        continue
                    looked.joined[room_id] = room
                    result, sent[room_id], members[room_id] = await self._sections.joined(
                        user,
                        reader,
                        room,
                        ref,
                        wish,
                        had,
                        upto.rooms[shard],
                        direct=is_direct,
                    )
                elif had is not None or room_id not in had_rooms or had_rooms[room_id].upto != ref.position:
                    room = await self._rooms.get(room_id)
                    if room is None:
                        continue
                    if ref.membership in PRESENT:
                        result = self._sections.invited(user, room, ref, direct=room_id in direct)
                    else:
                        live = before is not None and ref.position > before.position.rooms[shard]
                        result = self._sections.left(user, room, ref, live=live)
                    sent[room_id] = SentRoom(0, "", ref.position, live=False)
                else:
                    continue
                if result is not None:
                    results.append(orjson.dumps(room_id) + b":" + result)
        for room_id, earlier in had_rooms.items():
            if room_id not in sent:
                sent[room_id] = self._as_it_was(room_id, earlier, before)
        results += await self._left(user, sent)
        sections, news = await self._extensions.sections(
            user, device_id, request.extensions, looked, behind, before.position if before else None, upto
        )
        if before is not None and before.sent.lists != counts:
            news = True
        parts = [
            b'"lists":' + orjson.dumps({name: {"count": count} for name, count in counts.items()}),
            b'"rooms":{' + b",".join(results) + b"}",
            b'"extensions":{'
            + b",".join(b'"' + name.encode() + b'":' + body for name, body in sections.items())
            + b"}",
        ]
        if request.txn_id is not None:
            parts.append(b'"txn_id":' + orjson.dumps(request.txn_id))
        members = {room_id: users for room_id, users in members.items() if users and room_id in sent}
        return Answer(b",".join(parts), SentRooms(sent, counts), members, bool(results) or news)

    def _as_it_was(self, room_id: str, earlier: SentRoom, before: Snapshot | None) -> SentRoom:
        """A room that this answer is not about: the client has it up to where the answer before went."""
        if earlier.upto is not None or before is None:
            return earlier
        shard = self._rooms.shards.of_room(room_id)
        return msgspec.structs.replace(earlier, upto=before.position.rooms[shard])

    async def _looked(
        self, user: User, request: SlidingRequest, listed: list[Listed]
    ) -> tuple[Looked, dict[str, Wish], dict[str, int]]:
        """(rooms by list and subscription, what is wanted of each, the lists' lengths)."""
        looked = Looked()
        configs: dict[str, tuple[RoomConfig, ...]] = {}
        counts: dict[str, int] = {}
        for name, wanted in request.lists.items():
            in_list = await matching(self._rooms, user, listed, wanted.filters)
            counts[name] = len(in_list)
            shown = window(in_list, wanted)
            looked.by_list[name] = {room.room_id for room, _ in shown}
            for room, _ in shown:
                configs[room.room_id] = (*configs.get(room.room_id, ()), wanted)
        for room_id, config in request.room_subscriptions.items():
            looked.subscribed.add(room_id)
            configs[room_id] = (*configs.get(room_id, ()), config)
        made: dict[tuple[int, ...], Wish] = {}
        wishes: dict[str, Wish] = {}
        for room_id, of_room in configs.items():
            same = tuple(map(id, of_room))
            if same not in made:
                made[same] = Wish(user.user_id, of_room)
            wishes[room_id] = made[same]
        return looked, wishes, counts

    async def _left(self, user: User, sent: dict[str, SentRoom]) -> list[bytes]:
        """Rooms that the client has otherwise and the user has left since."""
        results: list[bytes] = []
        for room_id, earlier in list(sent.items()):
            ref = user.memberships.get(room_id)
            if ref is None or ref.membership in PRESENT:
                continue
            if not earlier.live and earlier.upto == ref.position:
                continue  # it was told so
            with LeftOutIfBroken(room_id):
                room = await self._rooms.get(room_id)
                if room is not None:
                    results.append(room.room_id_json + b":" + self._sections.left(user, room, ref, live=True))
                del sent[room_id]
        return results


def _had(before: Snapshot | None, room: Room | Outline) -> Had | None:
    """What the client has of a room that it follows."""
    sent = before.sent.rooms.get(room.room_id) if before is not None else None
    if before is None or sent is None or not sent.live:
        return None
    upto = before.position.rooms[room.shard] if sent.upto is None else sent.upto
    return Had(sent, upto, before.members.get(room.room_id, frozenset()))
