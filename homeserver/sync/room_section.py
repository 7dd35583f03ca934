"""One room's section of a /sync answer, as JSON bytes (spec: client-server "Syncing").

Pieces that are the same for everyone who reads the same slice are kept in the room's `fragments`
until the room changes, so that a message to two hundred clients is serialized once.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import orjson

from homeserver.rooms.rendering import Reader
from homeserver.rooms.room import Receipt, Room
from homeserver.rooms.room_event import RoomEvent
from homeserver.since_tokens import encode_position
from homeserver.sync.timeline import TimelineSlice

NAMING = frozenset({"m.room.member", "m.room.name", "m.room.canonical_alias"})
"""Types of events after which a room's summary may be another."""
PRIVATE = "m.read.private"
SHARED_MS = 1_000
"""For how long what is serialized is told to others, too: it says how old its events are."""


class Shared(NamedTuple):
    """JSON of events as everybody sees them, and when it was made."""

    json: bytes
    ts: int

    def is_told_at(self, now: int) -> bool:
        """Whether it was made just now."""
        return abs(now - self.ts) < SHARED_MS


NOTHING_ELSE = b'"ephemeral":{"events":[]},"account_data":{"events":[]}'
"""Of a section in which there are only messages."""


class Timeline:
    """A slice of a room's timeline, and what is worked out of it once for all who read it."""

    __slots__ = ("_authors", "_shared", "events", "names", "newcomers", "senders", "slice")

    def __init__(self, slice: TimelineSlice) -> None:
        self.slice = slice
        self.events: list[RoomEvent] = slice.events
        self.names = any(event.type in NAMING for event in slice.events)
        """Whether it has an event after which the room's summary may be another."""
        self._shared: Shared | None = None
        self.senders = {event.sender for event in slice.events}
        self.newcomers = {user_id for event in slice.events for user_id in event.newcomers}
        """Users who may not see all of it, though they were in the room when it came."""
        self._authors = {event.sender for event in slice.events if event.txn is not None}

    def shared(self, now: int) -> bytes | None:
        """`"timeline":{…}` as all those see it to whom it is nothing special, if it was made just now."""
        shared = self._shared
        return shared.json if shared is not None and shared.is_told_at(now) else None

    def share(self, json: bytes, now: int) -> None:
        """Keep that for the others."""
        self._shared = Shared(json, now)

    def is_special_to(self, reader: Reader) -> bool:
        """Whether a reader sees it otherwise than others.

        That is with own transaction ids, without the ignored, and without what was said before they came.
        """
        return (
            reader.user_id in self._authors
            or not reader.ignored.isdisjoint(self.senders)
            or reader.user_id in self.newcomers
        )


class NewMessages(NamedTuple):
    """All that is new in a room for those who have been in it, where that is nothing but messages."""

    timeline: Timeline
    shared: Shared
    """`"timeline":{…}` as all those see it to whom it is nothing special."""
    senders: Sequence[RoomEvent]
    """The member events of those who sent them."""


def is_only_messages(room: Room, timeline: Timeline, after: int) -> bool:
    """Whether there is nothing new in a room since a position but what a slice of its timeline has, and no
    state is among that."""
    slice, receipts = timeline.slice, room.receipt_order
    return (
        bool(slice.events)
        and not slice.limited
        and all(event.state_key is None for event in slice.events)
        and room.resolved_at <= after
        and (not receipts or receipts[-1].seq <= after)
    )


def senders_of(room: Room, timeline: Timeline) -> list[RoomEvent]:
    """The member events of those who sent what is in a slice of a room's timeline."""
    members = (room.head.lookup("m.room.member", sender) for sender in timeline.senders)
    return [member for member in members if member is not None]


def timeline_json(slice: TimelineSlice, rendered: Iterable[bytes]) -> bytes:
    return b'"timeline":{"events":[%b],"limited":%b,"prev_batch":"%b"}' % (
        b",".join(rendered),
        b"true" if slice.limited else b"false",
        encode_position(slice.start).encode(),
    )


def events_object(events: Iterable[bytes]) -> bytes:
    return b'{"events":[' + b",".join(events) + b"]}"


def receipts_event(room: Room, after: int, upto: int, user_id: str) -> bytes | None:
    """The `m.receipt` event of what changed; private receipts are for their own user only."""
    order = room.receipt_order
    if not order or order[-1].seq <= after:
        return None
    key = ("receipts", after, upto)
    shared = room.fragments.get(key, _SharedReceipts)
    if shared is None:
        shared = _shared_receipts(room, after, upto)
        room.fragments.keep(key, shared, 8 * len(shared.newest) + len(shared.json or b""))
    if user_id not in shared.private_of:
        return shared.json
    own = [r for r in shared.newest if r.kind != PRIVATE or r.user_id == user_id]
    return _receipts_json(own)


class _SharedReceipts(NamedTuple):
    """What changed between two positions."""

    newest: list[Receipt]
    json: bytes | None
    """As those see it who have no private ones among them."""
    private_of: set[str]


def _shared_receipts(room: Room, after: int, upto: int) -> _SharedReceipts:
    order = (
        room.receipt_order
        if after >= room.receipts_after
        else sorted(receipt for of_user in room.receipts.values() for receipt in of_user.values())
    )
    newest = [
        receipt
        for receipt in order
        if after < receipt.seq <= upto
        and room.receipts[receipt.user_id].get((receipt.kind, receipt.thread_id)) is receipt
    ]
    public = [receipt for receipt in newest if receipt.kind != PRIVATE]
    return _SharedReceipts(newest, _receipts_json(public), {r.user_id for r in newest if r.kind == PRIVATE})


def _receipts_json(receipts: Iterable[Receipt]) -> bytes | None:
    content: dict[str, dict[str, dict[str, dict[str, object]]]] = {}
    # The event has room for one receipt of a user on an event: the unthreaded one says the most (MSC4102).
    for receipt in sorted(receipts, key=lambda receipt: receipt.thread_id is None):
        shown: dict[str, object] = {"ts": receipt.ts}
        if receipt.thread_id is not None:
            shown["thread_id"] = receipt.thread_id
        content.setdefault(receipt.event_id, {}).setdefault(receipt.kind, {})[receipt.user_id] = shown
    return orjson.dumps({"type": "m.receipt", "content": content}) if content else None
