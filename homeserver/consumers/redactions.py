"""Prunes the stored bodies of redacted events (spec: client-server "Redactions").

The redaction is an entry of the log like any other; rooms in memory prune their copy as they apply
it. Here the body in the store follows, wherever that is: state that was told when this server came into
the room, or that was resolved, has entries of its own, and lies beside the log too. What is pruned says by
which redaction, so doing it again changes nothing.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import orjson
from msgspec.structs import replace

from homeserver.protocol.redaction import redact
from homeserver.protocol.room_versions import ROOM_VERSIONS, RoomVersion
from homeserver.protocol.signing import encode_event
from homeserver.rooms.event_meta import decode_meta, encode_meta
from homeserver.rooms.reading_order import is_between
from homeserver.rooms.redaction import is_redaction, takes_effect
from homeserver.rooms.room_event import RoomEvent, redaction_target
from homeserver.rooms.stored_events import StoredEvents
from storage.collection import Collection
from storage.log import Entry, Kind, Log
from storage.records.side_events import SideEvent

KEYS = [("m.room.create", ""), ("m.room.power_levels", "")]
MAX_COPIES = 1_000
"""Entries under a state key, the newest ones, that are looked through for copies of a redacted event."""


class Redacted(NamedTuple):
    """A redacted event, and where its body lies."""

    event_id: str
    version: RoomVersion
    entries: Sequence[Entry]
    """Of its timeline, and those that made it current without a place there."""
    beside: SideEvent | None


class Redactions:
    """The handler behind the consumer "redactions"."""

    def __init__(self, log: Log, stored: StoredEvents, side_events: Collection[SideEvent]) -> None:
        self._log = log
        self._stored = stored
        self._side = side_events

    @staticmethod
    def wants(entry: Entry) -> bool:
        return is_redaction(entry)

    async def handle(self, shard: int, entry: Entry) -> None:
        """Prune what the redaction redacts."""
        redacted = await self.redacted_by(shard, entry)
        if redacted is None:
            return
        for target in redacted.entries:
            meta = decode_meta(target.meta)
            if meta.redacted_by is None:
                meta = replace(
                    meta, redacted_by=entry.event_id, redacts=None, device_id=None, txn_id=None, delay_id=None
                )
                pruned = _pruned(redacted.version, target.body)
                await self._log.rewrite(shard, target.seq, pruned, encode_meta(meta))
        if redacted.beside is not None:
            pruned = _pruned(redacted.version, redacted.beside.body)
            await self._side.replace_if(redacted.beside, replace(redacted.beside, body=pruned))

    async def redacted_by(self, shard: int, entry: Entry) -> Redacted | None:
        """The event that a redaction redacts, if it is of the same room and this was allowed."""
        meta = decode_meta(entry.meta)
        target_id = redaction_target(orjson.loads(entry.body), meta)
        if target_id is None:
            return None
        entries = await self._entries(shard, entry.stream, target_id, meta.redacts_key)
        beside = await self._side.get(entry.stream, target_id)
        if entries:
            sender = entries[0].sender or ""
        elif beside is not None:
            sender = orjson.loads(beside.body)["sender"]
        else:
            return None
        state = await self._state_at(shard, entry)
        create = state.get(("m.room.create", ""))
        if create is None or target_id == create.event_id:
            return None
        version = ROOM_VERSIONS[create.content.get("room_version", "1")]

        def lookup(type: str, state_key: str) -> RoomEvent | None:
            return state.get((type, state_key))

        allowed = takes_effect(version, lookup, entry.sender or "", sender)
        return Redacted(target_id, version, entries, beside) if allowed else None

    async def _entries(
        self, shard: int, room_id: str, event_id: str, key: tuple[str, str] | None
    ) -> list[Entry]:
        """The entries of a room that have the body of an event, which is state if there is a key."""
        found = (await self._log.by_event_id(shard, [event_id])).get(event_id)
        entries = [found] if found is not None and found.stream == room_id else []
        if key is not None:
            type, state_key = key
            keyed = await self._log.keyed(
                shard,
                room_id,
                kind=Kind.EVENT,
                type=type,
                key=state_key,
                newest_first=True,
                limit=MAX_COPIES,
            )
            entries += [each for each in keyed if each.kind is Kind.STATE and each.target == event_id]
        return entries

    async def _state_at(self, shard: int, entry: Entry) -> Mapping[tuple[str, str], RoomEvent]:
        # In a gap of the timeline the state is what was noted there.
        line = Kind.GAP_STATE if is_between(entry.position) else Kind.EVENT
        refs = await self._log.current_at(shard, entry.stream, line, entry.position, KEYS)
        events = await self._stored.current(entry.stream, refs)
        return {(event.type, event.state_key or ""): event for event in events}


def _pruned(version: RoomVersion, body: bytes) -> bytes:
    return encode_event(version, redact(version, orjson.loads(body)))
