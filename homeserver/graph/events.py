"""Events of a room by id, wherever they lie: in the log, or beside it.

What was redacted is what is left of it, from its redaction on. Before room version 11 power levels lose who
may invite: the auth rules have to be asked about the same levels here as where a user's own event is made.
"""

from collections import Counter, OrderedDict
from collections.abc import Collection as Items
from collections.abc import Sequence
from typing import NamedTuple

import orjson

from homeserver.protocol.events import Event, load_event
from homeserver.protocol.redaction import redact
from homeserver.rooms.event_meta import decode_meta
from homeserver.rooms.redaction import is_redaction, takes_effect
from homeserver.rooms.room import CREATE, Room
from homeserver.rooms.room_event import RoomEvent, redaction_target
from storage.collection import Collection
from storage.log import Entry, Kind, Log
from storage.records.side_events import OUTLIER, REJECTED, SOFT_FAILED, SideEvent

KEPT = 20_000
"""Events kept parsed."""
REDACTIONS_KEPT = 1_000
"""The newest of them: what they redact may not be pruned in the store yet."""

StateDelta = Sequence[tuple[str, str, str | None]]


class KnownEvent(NamedTuple):
    """An event and what became of it."""

    event: Event
    position: int | None
    """In the room's timeline, below zero for history that was fetched; None beside it."""
    base: int | None = None
    delta: StateDelta = ()
    """See `EventMeta`."""
    standing: str | None = None
    """Of a `SideEvent`; None in the timeline."""

    @property
    def is_rejected(self) -> bool:
        return self.standing == REJECTED

    @property
    def has_state(self) -> bool:
        """Whether the state before it is known."""
        return self.standing != OUTLIER and (self.position is None or self.position > 0)

    @property
    def adds_to_state(self) -> bool:
        """Whether it is part of the state after it."""
        return self.event.is_state and self.standing in (None, SOFT_FAILED)


class GraphEvents:
    """Reads events of rooms, and keeps those that were read lately."""

    def __init__(self, log: Log, side_events: Collection[SideEvent]) -> None:
        self._log = log
        self._side = side_events
        self._kept: OrderedDict[tuple[str, str], KnownEvent] = OrderedDict()
        self._read_now: Counter[tuple[str, str]] = Counter()
        """How many are reading an event."""
        self._overtaken: set[tuple[str, str]] = set()
        """What was forgotten while it was read: it may be out of date, and is not kept."""
        self._redactors: OrderedDict[tuple[str, str], str] = OrderedDict()
        """What was redacted lately → the sender of the redaction."""

    async def get_many(self, room: Room, event_ids: Items[str]) -> dict[str, KnownEvent]:
        """Those of the events that are known."""
        found: dict[str, KnownEvent] = {}
        missing: list[str] = []
        for event_id in event_ids:
            known = self._kept.get((room.room_id, event_id))
            if known is None:
                missing.append(event_id)
            else:
                self._kept.move_to_end((room.room_id, event_id))
                found[event_id] = known
        if missing:
            found.update(await self._read(room, missing))
        return found

    def forget(self, room_id: str, event_id: str) -> None:
        """What became of the event has changed."""
        self._kept.pop((room_id, event_id), None)
        if (room_id, event_id) in self._read_now:
            self._overtaken.add((room_id, event_id))

    def on_room_entry(self, shard: int, entry: Entry, room: Room | None, view: RoomEvent | None) -> None:
        """Follows the room shards: an event has a place in the timeline, whichever replica took it."""
        if entry.kind is Kind.EVENT and entry.event_id is not None:
            self.forget(entry.stream, entry.event_id)
        if is_redaction(entry):
            redacted = redaction_target(orjson.loads(entry.body), decode_meta(entry.meta))
            if redacted is not None:
                self.forget(entry.stream, redacted)
                self._redactors[entry.stream, redacted] = entry.sender or ""
                if len(self._redactors) > REDACTIONS_KEPT:
                    self._redactors.popitem(last=False)

    async def _read(self, room: Room, event_ids: Sequence[str]) -> dict[str, KnownEvent]:
        reading = [(room.room_id, event_id) for event_id in event_ids]
        self._read_now.update(reading)
        try:
            found = await self._looked_up(room, event_ids)
            for event_id, known in found.items():
                if (room.room_id, event_id) not in self._overtaken:
                    self._kept[room.room_id, event_id] = known
        finally:
            for each in reading:
                self._read_now[each] -= 1
                if not self._read_now[each]:
                    del self._read_now[each]
                    self._overtaken.discard(each)
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return found

    async def _looked_up(self, room: Room, event_ids: Sequence[str]) -> dict[str, KnownEvent]:
        found: dict[str, KnownEvent] = {}
        entries = await self._log.by_event_id(room.shard, event_ids)
        for event_id, entry in entries.items():
            if entry.stream == room.room_id:
                meta = decode_meta(entry.meta)
                event = self._loaded(room, entry.body, event_id)
                found[event_id] = KnownEvent(event, entry.position, meta.base, meta.delta)
        beside = [(room.room_id, event_id) for event_id in event_ids if event_id not in entries]
        for side in await self._side.get_many(beside) if beside else ():
            event = self._loaded(room, side.body, side.event_id)
            found[side.event_id] = KnownEvent(event, None, side.base, side.delta, side.standing)
        return found

    def _loaded(self, room: Room, body: bytes, event_id: str) -> Event:
        version, pdu = room.version, orjson.loads(body)
        redactor = self._redactors.get((room.room_id, event_id))
        is_redacted = (
            redactor is not None
            and pdu["type"] != CREATE[0]
            and CREATE in room.head.state
            and takes_effect(version, room.head.lookup, redactor, pdu["sender"])
        )
        return load_event(version, redact(version, pdu) if is_redacted else pdu, event_id)
