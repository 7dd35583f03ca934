"""The users in use, in memory: where they are members, their account data, what waits for their devices.

Loaded from the log when somebody needs them, kept up by it, and evicted, like rooms.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple
from weakref import WeakValueDictionary

import orjson

from homeserver.clock import Clock, credible
from homeserver.protocol.json_types import JsonObject
from homeserver.rooms.room import Room, sets_state
from homeserver.rooms.room_event import RoomEvent
from homeserver.shard_writer import Append, Appended, Proposal, R, ShardWriter
from storage.log import Entry, Kind, Log, ShardMap

LOAD_ATTEMPTS = 20

FORGOTTEN = "forgotten"
"""Notice type: the user forgot the room under the entry's key; the body is the position of the leave."""


class MembershipRef(NamedTuple):
    """A user's present membership of one room, and the event that says so."""

    membership: str
    position: int
    event_id: str
    sender: str
    since: int
    """The membership is known to have been this one from here on (it may have been for longer)."""
    ts: int
    """When the event was made, never beyond this server's clock."""


class AccountDatum(NamedTuple):
    seq: int
    content: bytes
    """JSON; b"" when deleted."""


class User:
    """The aggregate. `account_data` is by (room id or "", type)."""

    def __init__(self, user_id: str, shard: int) -> None:
        self.user_id = user_id
        self.shard = shard
        self.last_seq = 0
        self.memberships: dict[str, MembershipRef] = {}
        self.account_data: dict[tuple[str, str], AccountDatum] = {}
        self.account_data_seq = 0
        """The newest seq of any account data."""
        self.account_data_bytes = 0
        self.last_to_device: dict[str, int] = {}
        """Device → seq of the newest message that may wait for it."""
        self.forgotten: dict[str, int] = {}
        """Room → position of the leave that was forgotten."""

    def apply(self, entry: Entry) -> None:
        """Take one entry of the user's own stream; seen ones are passed over."""
        if entry.seq <= self.last_seq:
            return
        self.last_seq = entry.seq
        key, type = entry.key or "", entry.type or ""
        if entry.kind is Kind.ACCOUNT_DATA:
            before = self.account_data.get((key, type))
            self.account_data_bytes += len(entry.body) - (len(before.content) if before is not None else 0)
            self.account_data[key, type] = AccountDatum(entry.seq, entry.body)
            self.account_data_seq = entry.seq
        elif entry.kind is Kind.TO_DEVICE:
            self.last_to_device[key] = entry.seq
        elif entry.kind is Kind.NOTICE and type == FORGOTTEN:
            self.forgotten[key] = int(entry.body)

    def apply_member(self, entry: Entry, membership: str, now: int) -> None:
        """Take the user's own member event of a room; what time it claims is judged by `now`."""
        before = self.memberships.get(entry.stream)
        since = before.since if before is not None and before.membership == membership else entry.came_at
        self.memberships[entry.stream] = MembershipRef(
            membership,
            entry.came_at,
            entry.event_id or entry.target or "",
            entry.sender or "",
            since,
            credible(entry.ts, now),
        )

    def global_data(self, type: str) -> JsonObject:
        """Global account data, {} when there is none."""
        datum = self.account_data.get(("", type))
        return orjson.loads(datum.content) if datum is not None and datum.content else {}

    def room_tags(self, room_id: str) -> JsonObject:
        """The user's tags of a room."""
        datum = self.account_data.get((room_id, "m.tag"))
        tags = orjson.loads(datum.content).get("tags") if datum is not None and datum.content else None
        return tags if isinstance(tags, dict) else {}

    def rooms(self, membership: str) -> list[str]:
        """The rooms in which the user is `join`, `invite`, `knock` …"""
        return [room_id for room_id, ref in self.memberships.items() if ref.membership == membership]

    def has_forgotten(self, room_id: str) -> bool:
        ref = self.memberships.get(room_id)
        return ref is not None and self.forgotten.get(room_id, -1) >= ref.position


OnUserEntry = Callable[[Entry], None]


class Users:
    """Users in memory by id, least recently used first; `max_users` are kept."""

    def __init__(self, log: Log, shards: ShardMap, now: Clock, *, server_name: str, max_users: int) -> None:
        self._log = log
        self._shards = shards
        self._now = now
        self.server_name = server_name
        self._suffix = ":" + server_name
        self.writers: dict[int, ShardWriter] = {}
        self._users: OrderedDict[str, User] = OrderedDict()
        self._held: WeakValueDictionary[str, User] = WeakValueDictionary()
        """Evicted users whom somebody still has in hand, see `Rooms`."""
        self._loading: dict[str, asyncio.Task[User]] = {}
        self._changed_while_loading: set[str] = set()
        self.max_users = max_users
        self.on_loaded: list[Callable[[User], None]] = []
        """Told of each user who comes into memory, before anybody is given them."""
        self._followers: list[OnUserEntry] = []
        self._consumers: list[Callable[[int, Sequence[Appended]], None]] = []

    async def start(self, on_appended: Callable[[int, int], None]) -> None:
        """Begin to follow the user shards; `on_appended` is told (shard, new tail) of own appends."""
        for shard in self._shards.user_shards():
            tail = await self._log.tail(shard)
            self.writers[shard] = ShardWriter(shard, self._log, tail, self.on_entries, on_appended)

    def follow(self, follower: OnUserEntry) -> None:
        self._followers.append(follower)

    def feed(self, consumer: Callable[[int, Sequence[Appended]], None]) -> None:
        """`consumer` is given each batch of entries after it was applied here."""
        self._consumers.append(consumer)

    def is_local(self, user_id: str) -> bool:
        return user_id.endswith(self._suffix)

    def tail(self, user_id: str) -> int:
        """How far the user's shard has been applied here."""
        return self.writers[self._shards.of_user(user_id)].tail

    def cached(self, user_id: str) -> User | None:
        return self._users.get(user_id) or self._held.get(user_id)

    def in_memory(self) -> int:
        return len(self._users)

    async def get(self, user_id: str) -> User:
        """The aggregate of a local user; an empty one if nothing ever happened to them."""
        user = self._users.get(user_id)
        if user is None and (user := self._held.pop(user_id, None)) is not None:
            self._users[user_id] = user
        if user is not None:
            self._users.move_to_end(user_id)
            return user
        task = self._loading.get(user_id)
        if task is None:
            task = asyncio.create_task(self._load(user_id), name="load-user")
            self._loading[user_id] = task
            task.add_done_callback(lambda _: self._loading.pop(user_id, None))
        return await asyncio.shield(task)

    async def append(self, user_id: str, entries: Sequence[Entry]) -> int:
        """Append to the user's shard; the seq of the last entry, once durable."""
        return await self.writers[self._shards.of_user(user_id)].submit(Append(entries))

    async def notice(self, user_id: str, type: str, key: str) -> Entry | None:
        """The newest notice of a type under a key in the user's log."""
        shard = self._shards.of_user(user_id)
        found = await self._log.keyed(
            shard, user_id, kind=Kind.NOTICE, type=type, key=key, newest_first=True, limit=1
        )
        return found[0] if found else None

    def submit(self, user_id: str, proposal: Proposal[R]) -> asyncio.Future[R]:
        """Append to the user's shard what the proposal makes of the user; see ShardWriter.submit."""
        return self.writers[self._shards.of_user(user_id)].submit(proposal)

    def on_entries(self, shard: int, appended: Sequence[Appended]) -> None:
        """Apply entries of a user shard, then tell the followers."""
        for item in appended:
            entry = item.entry
            user = self.cached(entry.stream)
            if user is not None:
                user.apply(entry)
            elif entry.stream in self._loading:
                self._changed_while_loading.add(entry.stream)
            for follower in self._followers:
                follower(entry)
        for consumer in self._consumers:
            consumer(shard, appended)

    def on_room_entry(self, shard: int, entry: Entry, room: Room | None, view: RoomEvent | None) -> None:
        """Keep memberships in step; follows the room shards."""
        if entry.type != "m.room.member" or entry.key is None or not entry.key.endswith(self._suffix):
            return
        if entry.key in self._loading:
            self._changed_while_loading.add(entry.key)
        user = self.cached(entry.key)
        if user is None:
            return
        if sets_state(entry) and not entry.is_past:
            membership = view.membership or "leave" if view is not None else membership_in(entry)
            user.apply_member(entry, membership, self._now())
        elif entry.kind is Kind.STATE:
            # No member event is left: what there is is read when the user is needed again.
            self._users.pop(entry.key, None)
            self._held.pop(entry.key, None)

    async def _load(self, user_id: str) -> User:
        for _ in range(LOAD_ATTEMPTS):
            self._changed_while_loading.discard(user_id)
            user = await self._read(user_id)
            if user_id not in self._changed_while_loading:
                break
        self._changed_while_loading.discard(user_id)
        existing = self._users.setdefault(user_id, user)
        for on_loaded in self.on_loaded:
            on_loaded(existing)
        while len(self._users) > self.max_users:
            evicted, user = self._users.popitem(last=False)
            self._held[evicted] = user
        return existing

    async def _read(self, user_id: str) -> User:
        log, shard = self._log, self._shards.of_user(user_id)
        user = User(user_id, shard)
        for kind in (Kind.ACCOUNT_DATA, Kind.NOTICE):
            refs = await log.current(shard, user_id, kind)
            entries = await log.entries(shard, [ref.seq for ref in refs])
            for entry in sorted(entries, key=_seq):
                user.last_seq = 0
                user.apply(entry)
        for ref in await log.current(shard, user_id, Kind.TO_DEVICE):
            user.last_to_device[ref.key] = ref.seq
        user.last_seq = 0
        now = self._now()
        members = await log.streams_keyed(self._shards.room_shards(), Kind.EVENT, "m.room.member", user_id)
        for entry in members.values():
            if sets_state(entry):
                user.apply_member(entry, membership_in(entry), now)
        return user


def membership_in(entry: Entry) -> str:
    """The membership that a member event's entry says."""
    membership = orjson.loads(entry.body)["content"].get("membership")
    return membership if isinstance(membership, str) else "leave"


def _seq(entry: Entry) -> int:
    return entry.seq
