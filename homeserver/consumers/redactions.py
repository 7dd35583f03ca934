"""Prunes the stored bodies of redacted events (spec: client-server "Redactions").

The redaction is an entry of the log like any other; rooms in memory prune their copy as they apply
it. Here the body in the store follows. What is pruned says by which redaction, so doing it again
changes nothing.
"""

from collections.abc import Mapping

import orjson
from msgspec.structs import replace

from homeserver.protocol.redaction import redact
from homeserver.protocol.room_versions import ROOM_VERSIONS, RoomVersion
from homeserver.protocol.signing import encode_event
from homeserver.rooms.event_meta import decode_meta, encode_meta
from homeserver.rooms.reading_order import is_between
from homeserver.rooms.redaction import takes_effect
from homeserver.rooms.room_event import RoomEvent, redaction_target
from homeserver.rooms.stored_events import StoredEvents
from storage.log import Entry, Kind, Log

KEYS = [("m.room.create", ""), ("m.room.power_levels", "")]


class Redactions:
    """The handler behind the consumer "redactions"."""

    def __init__(self, log: Log, stored: StoredEvents) -> None:
        self._log = log
        self._stored = stored

    @staticmethod
    def wants(entry: Entry) -> bool:
        return entry.type == "m.room.redaction" and entry.kind is Kind.EVENT and entry.key is None

    async def handle(self, shard: int, entry: Entry) -> None:
        """Prune what the redaction redacts."""
        redacted = await self.redacted_by(shard, entry)
        if redacted is None:
            return
        target, version = redacted
        meta = decode_meta(target.meta)
        if meta.redacted_by is not None:
            return
        pruned = redact(version, orjson.loads(target.body))
        pruned_meta = replace(meta, redacted_by=entry.event_id, redacts=None, device_id=None, txn_id=None)
        await self._log.rewrite(shard, target.seq, encode_event(version, pruned), encode_meta(pruned_meta))

    async def redacted_by(self, shard: int, entry: Entry) -> tuple[Entry, RoomVersion] | None:
        """The event that a redaction redacts, if it is of the same room and this was allowed."""
        target_id = redaction_target(orjson.loads(entry.body), decode_meta(entry.meta))
        if target_id is None:
            return None
        target = (await self._log.by_event_id(shard, [target_id])).get(target_id)
        if target is None or target.stream != entry.stream:
            return None
        state = await self._state_at(shard, entry)
        create = state.get(("m.room.create", ""))
        if create is None or target.event_id == create.event_id:
            return None
        version = ROOM_VERSIONS[create.content.get("room_version", "1")]

        def lookup(type: str, state_key: str) -> RoomEvent | None:
            return state.get((type, state_key))

        allowed = takes_effect(version, lookup, entry.sender or "", target.sender or "")
        return (target, version) if allowed else None

    async def _state_at(self, shard: int, entry: Entry) -> Mapping[tuple[str, str], RoomEvent]:
        # In a gap of the timeline the state is what was noted there.
        line = Kind.GAP_STATE if is_between(entry.position) else Kind.EVENT
        refs = await self._log.current_at(shard, entry.stream, line, entry.position, KEYS)
        events = await self._stored.current(entry.stream, refs)
        return {(event.type, event.state_key or ""): event for event in events}
