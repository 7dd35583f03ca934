"""The log port: the truth of the server, as dense sequences of entries.

A *shard* is one sequence, numbered 1, 2, 3 … without holes. Room shards hold what happens in rooms,
user shards what happens to one user; `ShardMap` says which stream lives where. A *stream* is one
room or one user inside a shard.

An entry may be *keyed* by `(kind, type, key)`: then the newest entry under a key is the stream's
present value of it, and the newest one at or before a position is the value at that position. Room
state, receipts and account data are all kept in this one way ("state is a timeline").

A live entry's position is its sequence number. Backfilled history is appended like everything else
but carries a `pos` of its own, below the positions of all live ones, so positions never move. State
that is learnt late, of a room that was joined before all of it was known, carries the position at
which it stood; there it counts, but it is news when it comes.
"""

from collections.abc import Sequence
from enum import IntEnum
from hashlib import blake2b
from typing import Protocol

import msgspec


class Kind(IntEnum):
    """What an entry is. The number is stored: never reuse one."""

    UNKNOWN = 0
    """One that a later release has added, whose replicas run beside this one. It is passed over, and never
    appended."""
    EVENT = 1
    """A PDU with a place in its room's timeline. Keyed by (type, state_key) when it is a state event."""
    STATE = 2
    """A state key changed with no event of the timeline: by resolution, or as what the room was when this
    server came in. `target` is the event now current there, with its `body`; None for no event."""
    RECEIPT = 3
    """A read receipt. type: receipt type, or "type thread_id" when threaded; key: user id; target: event."""
    REWRITTEN = 4
    """The body of event `target` was replaced (redaction) or removed (purge, erasure)."""
    DEVICE_LIST = 5
    """In room shards (stream "device_lists"): what others know of the devices of user `key` has changed.
    In user shards: the user's identity keys themselves, keyed by what they are for."""
    ACCOUNT_DATA = 6
    """type: account data type; key: room id, "" for global. An empty body means deleted."""
    TO_DEVICE = 7
    """A to-device message. key: device id."""
    NOTICE = 8
    """Something else that the user's devices must see in order; type says what."""
    OUTGOING = 9
    """In user shards, in the stream of another server's name: an EDU that has to be delivered to it."""
    GAP = 10
    """What comes next in the room follows upon events that are not here."""
    GAP_STATE = 11
    """What a state key was in a gap of a room's timeline, of what was fetched into it later. Like STATE, but
    part of no state of the timeline."""
    PARTIAL = 12
    """How much of the room's state is known: while its members are not, the body names the servers in it and
    the join that brought it here; without a body, all of it is."""


class Entry(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One entry of the log. `seq` is 0 until the log has given it a number.

    `body` is the exact JSON as signed for events, the content's JSON for the rest. `meta` holds the
    server's own notes on the entry as JSON; it is never shown to anyone as it is.
    """

    kind: Kind
    stream: str
    body: bytes = b""
    event_id: str | None = None
    type: str | None = None
    key: str | None = None
    sender: str | None = None
    target: str | None = None
    """The event this one refers to: the relation's parent, the event a receipt or a rewrite is about."""
    rel_type: str | None = None
    txn: bytes | None = None
    """`transaction_digest` of the client's request; unique in the shard."""
    ts: int = 0
    """Milliseconds since 1970: origin_server_ts of an event, time of arrival of the rest."""
    meta: bytes = b""
    pos: int | None = None
    seq: int = 0

    @property
    def position(self) -> int:
        return self.seq if self.pos is None else self.pos

    @property
    def is_past(self) -> bool:
        """Whether it is of the past, and no news."""
        return self.pos is not None and self.pos < 0

    @property
    def came_at(self) -> int:
        """Its position as news: of what was learnt late, not where it stood but when it came."""
        return self.position if self.is_past else self.seq


class KeyedRef(msgspec.Struct, frozen=True, gc=False):
    """What a stream's key points to at some position, without the body."""

    type: str
    key: str
    seq: int
    position: int
    event_id: str | None
    """The event that is the value: the entry's own, or else its target (STATE with None: a tombstone)."""
    sender: str | None
    kind: Kind

    @property
    def came_at(self) -> int:
        """As that of the entry."""
        return self.position if self.position < 0 else self.seq


class ShardMap(msgspec.Struct, frozen=True):
    """Which shard a room or a user lives in. Counts are fixed when a store is created."""

    rooms: int
    users: int

    USER_BASE = 1 << 12

    def of_room(self, room_id: str) -> int:
        return _spread(room_id, self.rooms)

    def of_user(self, user_id: str) -> int:
        return self.USER_BASE + _spread(user_id, self.users)

    def room_shards(self) -> range:
        return range(self.rooms)

    def user_shards(self) -> range:
        return range(self.USER_BASE, self.USER_BASE + self.users)


def _spread(name: str, n: int) -> int:
    if n == 1:
        return 0
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big") % n


def transaction_digest(user_id: str, device_id: str, endpoint: str, txn_id: str) -> bytes:
    """The 16 bytes under which a client's transaction is unique (spec: transaction identifiers)."""
    scope = "\0".join((user_id, device_id, endpoint, txn_id))
    return blake2b(scope.encode("utf-8", "surrogatepass"), digest_size=16).digest()


class Log(Protocol):
    """One act, `append`, and the indexed reads that rooms and users need.

    Whatever a read returns is durable and final. Pages are bounded by `limit`, which callers keep
    at or below 1,000. A cancelled caller never cancels its append.
    """

    async def append(self, shard: int, expected: int, entries: Sequence[Entry]) -> int:
        """Extend `shard`, whose tail must be `expected`, and return the new tail, once it is durable.

        Entry i gets seq expected + 1 + i. Appends of concurrent callers are grouped into one commit.
        After a crash a prefix of the entries may be there; after an error none, unless it is
        OutcomeUnknown.

        Raises Conflict, Duplicate, StoreUnavailable, OutcomeUnknown.
        """
        ...

    async def tail(self, shard: int) -> int:
        """The last number given in the shard, 0 when it is empty.

        It never goes back: when the last entries were removed, it is beyond what `read` gives.
        """
        ...

    async def read(self, shard: int, after: int, limit: int) -> list[Entry]:
        """Entries with seq > after, in order; removed ones are left out. None left: an empty list."""
        ...

    async def entry(self, shard: int, seq: int) -> Entry | None: ...

    async def entries(self, shard: int, seqs: Sequence[int]) -> list[Entry]:
        """The entries with these numbers, in the order asked; missing ones (purged) are left out."""
        ...

    async def by_event_id(self, shard: int, event_ids: Sequence[str]) -> dict[str, Entry]:
        """Those of the events that are in the shard, in whichever of its streams."""
        ...

    async def find_event(self, event_id: str) -> Entry | None:
        """An event by its id alone, in whichever room shard it is (room versions 3+: ids are global)."""
        ...

    async def by_txn(self, shard: int, txn: bytes) -> Entry | None:
        """What a client's transaction has made."""
        ...

    async def page(
        self,
        shard: int,
        stream: str,
        *,
        kind: Kind,
        after: int | None = None,
        before: int | None = None,
        newest_first: bool = False,
        limit: int,
    ) -> list[Entry]:
        """Entries of one kind of a stream by position, strictly between `after` and `before`."""
        ...

    async def keyed(
        self,
        shard: int,
        stream: str,
        *,
        kind: Kind,
        type: str,
        key: str,
        after: int | None = None,
        before: int | None = None,
        newest_first: bool = False,
        limit: int,
    ) -> list[Entry]:
        """Entries under one key by position: a device's messages, the history of one state key.

        For EVENT, STATE entries count too, as in `current`.
        """
        ...

    async def current(self, shard: int, stream: str, kind: Kind) -> list[KeyedRef]:
        """The newest entry under each key of a stream; for EVENT, STATE entries count too (room state).

        Newest is the highest position: backfilled history changes it only under keys that were new.
        Where the newest entry was removed, the newest one that is left counts. In no particular order.
        """
        ...

    async def current_at(
        self,
        shard: int,
        stream: str,
        kind: Kind,
        position: int,
        keys: Sequence[tuple[str, str]] | None = None,
    ) -> list[KeyedRef]:
        """The newest entry at or before `position` under each key (or under the given keys).

        Keys that have none are left out. In no particular order.
        """
        ...

    async def streams_keyed(self, shards: range, kind: Kind, type: str, key: str) -> dict[str, Entry]:
        """The present value of this key in each stream that has it (a user's memberships by room).

        In all of these shards at once; between the first and the last none is left out.
        """
        ...

    async def related(
        self,
        shard: int,
        stream: str,
        target: str,
        *,
        rel_type: str | None = None,
        type: str | None = None,
        sender: str | None = None,
        after: int | None = None,
        before: int | None = None,
        newest_first: bool = True,
        limit: int,
    ) -> list[Entry]:
        """EVENT entries with a `rel_type` whose `target` is this one, by position."""
        ...

    async def with_relations(
        self,
        shard: int,
        stream: str,
        targets: Sequence[str],
        *,
        rel_type: str | None = None,
        sender: str | None = None,
    ) -> set[str]:
        """Those of the events to which some relation points."""
        ...

    async def by_rel_type(
        self, shard: int, stream: str, rel_type: str, *, before: int | None = None, limit: int
    ) -> list[Entry]:
        """EVENT entries that carry this relation type, newest first (a room's thread replies)."""
        ...

    async def near_time(self, shard: int, stream: str, ts: int, *, forwards: bool) -> Entry | None:
        """The EVENT entry of a stream closest to `ts`, at or after it (forwards) or at or before it."""
        ...

    async def streams(self, shard: int, *, after: str = "", limit: int) -> list[str]:
        """The names after `after` of the streams of a shard that have entries, by code points."""
        ...

    async def rewrite(self, shard: int, seq: int, body: bytes, meta: bytes) -> None:
        """Replace what entry `seq` holds; the log must already have a REWRITTEN entry that says so.

        Nothing happens when the entry was removed meanwhile.
        """
        ...

    async def remove(self, shard: int, seqs: Sequence[int]) -> None:
        """Drop entries that nobody may be told of any more (acknowledged to-device messages, purges).

        In batches, not atomic as a whole. Their numbers are not given again.
        """
        ...
