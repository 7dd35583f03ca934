"""Whose devices a client must look up again (spec: client-server "Tracking the device list for a user").

Two things make somebody's devices news to a user: they changed (a DEVICE_LIST entry in one of the
room shards, all of which every since-token covers), or the two have come to share a room. Both are
kept in order as they pass by, so that a sync looks only at what lies between its two positions. A
token from before that memory begins is answered from the log.
"""

import asyncio
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

import orjson

from homeserver.clock import Clock
from homeserver.e2ee.identities import SIGNATURE
from homeserver.rooms.broken_rooms import LeftOutIfBroken
from homeserver.rooms.room import Room
from homeserver.rooms.room_event import RoomEvent
from homeserver.rooms.rooms import Rooms
from homeserver.shard_writer import Append
from homeserver.since_tokens import SyncToken
from homeserver.users.shared_rooms import SharedRooms
from homeserver.users.users import User, Users, membership_in
from storage.log import Entry, Kind

STREAM = "device_lists"
"""The stream of DEVICE_LIST entries in a room shard; the key is the user."""

CHANGES_KEPT = 10_000
PAGE = 1_000
CACHED = 50_000

T = TypeVar("T")


ONLY_ELSEWHERE = "only_elsewhere"
"""The type of such an entry that is news to other servers only."""


def is_news(entry: Entry) -> bool:
    """Whether an entry of a room shard tells users here that somebody's devices or keys have changed."""
    return entry.kind is Kind.DEVICE_LIST and entry.type != ONLY_ELSEWHERE


def announced_changes(announcement: Entry) -> list[int]:
    """The numbers of the entries in the user's log that an announcement is about."""
    seqs: list[int] = orjson.loads(announcement.meta) if announcement.meta else []
    return seqs


class DeviceListChanges(NamedTuple):
    """Users whose devices are to be looked up, and users with whom no room is shared any more."""

    changed: set[str]
    left: set[str]

    def __bool__(self) -> bool:
        return bool(self.changed or self.left)


class DeviceLists:
    """Follows what changes devices and memberships; says what of it concerns a user."""

    def __init__(self, rooms: Rooms, users: Users, shared_rooms: SharedRooms, now: Clock) -> None:
        self._rooms = rooms
        self._users = users
        self._shared_rooms = shared_rooms
        self._now = now
        self._devices: dict[int, _Recent[str]] = {}
        """Room shard → users whose devices changed."""
        self._members: dict[int, _Recent[tuple[str, str]]] = {}
        """Room shard → (room, user) who joined, or left having been joined."""
        self._signed: OrderedDict[str, int] = OrderedDict()
        """User → the newest entry with a signature of theirs on another user's key; 0 for none."""
        rooms.follow(self._on_room_entry)
        users.follow(self._on_user_entry)

    async def announce(
        self, changes: Mapping[str, Sequence[int]], *, only_elsewhere: Collection[str] = ()
    ) -> None:
        """Tell everybody who shares a room with one of these users that their devices or keys changed.

        With each user go the numbers of the entries in their log that say what did. What changed of some
        concerns only other servers.
        """
        now = self._now()
        entries: dict[int, list[Entry]] = {}
        for user_id, seqs in changes.items():
            type = ONLY_ELSEWHERE if user_id in only_elsewhere else ""
            meta = orjson.dumps(seqs)
            entry = Entry(kind=Kind.DEVICE_LIST, stream=STREAM, type=type, key=user_id, meta=meta, ts=now)
            entries.setdefault(self._rooms.shards.of_room(user_id), []).append(entry)
        await asyncio.gather(
            *(self._rooms.writers[shard].submit(Append(of_shard)) for shard, of_shard in entries.items())
        )

    async def since(self, user: User, after: SyncToken, upto: SyncToken) -> DeviceListChanges:
        """What changed for `user` between two positions."""
        if self._is_quiet(user, after):
            return DeviceListChanges(set(), set())
        announced: set[str] = set()
        moved: set[tuple[str, str]] = set()
        for shard in self._rooms.shards.room_shards():
            low, high = after.rooms[shard], upto.rooms[shard]
            if low < high:
                announced |= await self._announced(shard, low, high)
                moved |= await self._moved(user, shard, low, high)
        changed = await self._signed_between(user, after.user, upto.user)
        gone: set[str] = set()
        for room_id, who in moved:
            with LeftOutIfBroken(room_id):
                await self._note_move(user, room_id, who, changed, gone)
        announced -= changed
        if user.user_id in announced:
            changed.add(user.user_id)
            announced.discard(user.user_id)
        changed |= await self._with_room(user, announced)
        return DeviceListChanges(changed, await self._without_room(user, gone - changed))

    def _is_quiet(self, user: User, after: SyncToken) -> bool:
        """Whether nobody's devices changed and nobody moved since a position, as far as is remembered."""
        newest = self._signed.get(user.user_id)
        if newest is None or newest > after.user:
            return False
        for shard, low in enumerate(after.rooms):
            if not self._recent(self._devices, shard).is_quiet(low):
                return False
            if not self._recent(self._members, shard).is_quiet(low):
                return False
        return True

    async def shares_room(self, user: User, other: str) -> bool:
        """Whether both are joined to some room."""
        if self._users.is_local(other):
            theirs = (await self._users.get(other)).memberships
            return any(ref.membership == "join" and _is_in(user, room_id) for room_id, ref in theirs.items())
        return any(_is_in(user, room_id) for room_id in await self._shared_rooms.of(other))

    # What changed

    async def _announced(self, shard: int, after: int, upto: int) -> set[str]:
        recent = self._recent(self._devices, shard)
        if after >= recent.complete_after:
            return set(recent.between(after, upto))
        found: set[str] = set()
        while True:
            page = await self._rooms.log.page(
                shard, STREAM, kind=Kind.DEVICE_LIST, after=after, before=upto + 1, limit=PAGE
            )
            found.update(entry.key for entry in page if is_news(entry) and entry.key is not None)
            if len(page) < PAGE:
                return found
            after = page[-1].seq

    async def _moved(self, user: User, shard: int, after: int, upto: int) -> set[tuple[str, str]]:
        """(room, who): moves of the user, and of others in the user's rooms."""
        recent = self._recent(self._members, shard)
        if after >= recent.complete_after:
            return {
                (room_id, who) for room_id, who in recent.between(after, upto) if room_id in user.memberships
            }
        found: set[tuple[str, str]] = set()
        for room_id, ref in user.memberships.items():
            if self._rooms.shards.of_room(room_id) != shard:
                continue
            if after < ref.since <= upto or after < ref.position <= upto:
                if ref.membership in ("join", "leave", "ban"):
                    found.add((room_id, user.user_id))
            elif ref.membership == "join":
                with LeftOutIfBroken(room_id):
                    room = await self._rooms.get(room_id)
                    if room is not None and room.last_seq > after:
                        members = _members_between(room, after, upto)
                        found.update((room_id, event.state_key or "") for event in members)
        return found

    async def _signed_between(self, user: User, after: int, upto: int) -> set[str]:
        """Users whose keys the user has signed: the user's devices are shown the signatures."""
        newest = self._signed.get(user.user_id)
        if newest is not None and newest <= after:
            return set()
        refs = await self._rooms.log.current(user.shard, user.user_id, Kind.DEVICE_LIST)
        signed = {ref.key: ref.seq for ref in refs if ref.type == SIGNATURE}
        # Another may have come while that was read.
        newest = self._signed.get(user.user_id, 0)
        self._remember_signed(user.user_id, max((newest, *signed.values())))
        return {other for other, seq in signed.items() if after < seq <= upto}

    async def _note_move(self, user: User, room_id: str, who: str, changed: set[str], gone: set[str]) -> None:
        """Sort a move by how things are now: a later one comes with a later answer."""
        room = await self._rooms.get(room_id)
        if room is None:
            return
        if who == user.user_id:
            (changed if who in room.joined else gone).update(room.joined)
        elif user.user_id in room.joined:
            (changed if who in room.joined else gone).add(who)

    # Who shares rooms

    async def _with_room(self, user: User, others: set[str]) -> set[str]:
        """Those of `others` with whom the user shares a room: asked of the fewer, of them or of the rooms.

        After some time away they are everybody on the server, most of whom are not in memory.
        """
        if len(others) > len(user.rooms("join")):
            return others - await self._without_room(user, others)
        return {other for other in others if await self.shares_room(user, other)}

    async def _without_room(self, user: User, others: set[str]) -> set[str]:
        """Those of `others` with whom the user shares no room (they may be many: a room's members)."""
        joined, others = user.rooms("join"), set(others)
        # Those that are in memory may settle it for everybody.
        joined.sort(key=lambda room_id: self._rooms.cached(room_id) is None)
        for room_id in joined:
            if not others:
                break
            with LeftOutIfBroken(room_id):
                room = await self._rooms.get(room_id)
                if room is not None:
                    # A step for each of the fewer, of them or of the members.
                    others -= others & room.joined
        return others

    # Following

    def _on_room_entry(self, shard: int, entry: Entry, room: Room | None, view: RoomEvent | None) -> None:
        if is_news(entry):
            self._recent(self._devices, shard).add(entry.seq, entry.key or "")
        elif (
            entry.type == "m.room.member"
            and not entry.is_past
            and entry.key is not None
            and (_joins_or_leaves(view) if view is not None else _may_join_or_leave(entry))
        ):
            self._recent(self._members, shard).add(entry.seq, (entry.stream, entry.key))

    def _on_user_entry(self, entry: Entry) -> None:
        if entry.kind is Kind.DEVICE_LIST and entry.type == SIGNATURE:
            self._remember_signed(entry.stream, entry.seq)

    def _remember_signed(self, user_id: str, seq: int) -> None:
        self._signed[user_id] = seq
        if len(self._signed) > CACHED:
            self._signed.popitem(last=False)

    def _recent(self, of_shards: "dict[int, _Recent[T]]", shard: int) -> "_Recent[T]":
        recent = of_shards.get(shard)
        if recent is None:
            recent = of_shards[shard] = _Recent(self._rooms.started_at[shard])
        return recent


class _Recent(Generic[T]):
    """The newest things of a shard in order, all of those above `complete_after`."""

    def __init__(self, complete_after: int) -> None:
        self.complete_after = complete_after
        self._seqs: list[int] = []
        self._things: list[T] = []

    def add(self, seq: int, thing: T) -> None:
        self._seqs.append(seq)
        self._things.append(thing)
        if len(self._seqs) > 2 * CHANGES_KEPT:
            self.complete_after = self._seqs[CHANGES_KEPT - 1]
            del self._seqs[:CHANGES_KEPT]
            del self._things[:CHANGES_KEPT]

    def is_quiet(self, after: int) -> bool:
        """Whether it is known that there is nothing above `after`."""
        return after >= self.complete_after and (not self._seqs or self._seqs[-1] <= after)

    def between(self, after: int, upto: int) -> list[T]:
        """Those with after < seq ≤ upto; `after` is not below `complete_after`."""
        seqs = self._seqs
        if not seqs or seqs[-1] <= after:
            return []
        return self._things[bisect_right(seqs, after) : bisect_right(seqs, upto)]


def _joins_or_leaves(member: RoomEvent) -> bool:
    """Whether a member event makes somebody joined or no longer joined; profile changes do neither."""
    before = member.unsigned().get("prev_content", {}).get("membership")
    return before != member.membership and "join" in (before, member.membership)


def _may_join_or_leave(entry: Entry) -> bool:
    """The same where it is not known what was before."""
    return entry.kind is Kind.STATE or membership_in(entry) in ("join", "leave", "ban")


def _members_between(room: Room, after: int, upto: int) -> list[RoomEvent]:
    """Member events between two positions, among them all by which somebody joined or left."""
    if after >= max(room.timeline_after, room.resolved_at):
        recent = room.timeline[room.first_after(after) : room.first_after(upto)]
        return [event for event in recent if event.type == "m.room.member" and _joins_or_leaves(event)]
    # The latest of several is there, whatever came before it.
    return [
        event
        for event in room.head.state.values()
        if event.type == "m.room.member" and after < event.position <= upto
    ]


def _is_in(user: User, room_id: str) -> bool:
    ref = user.memberships.get(room_id)
    return ref is not None and ref.membership == "join"
