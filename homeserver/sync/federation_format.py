"""The federation format of the events in a /sync answer, for the few who ask for it (spec: client-server
"Filtering", `event_format`).

A finished answer is taken apart for it, so that all others pay nothing. Each event of a room gets what
servers tell one another of it beside what clients are told; of its content, clients are shown no more.
"""

from collections.abc import Mapping, Sequence

import orjson

from homeserver.protocol.json_types import JsonObject
from homeserver.protocol.redaction import redact
from homeserver.rooms.room import Room
from homeserver.rooms.rooms import Rooms
from storage.collection import Collection
from storage.records.side_events import SideEvent

PARTS = ("timeline", "state", "state_after")
"""Of a room's section, those with its events. What is told with an invite or a knock is in no such format."""


class FederationFormat:
    """Reads the events as they were signed: in the log, or beside it."""

    def __init__(self, rooms: Rooms, side_events: Collection[SideEvent]) -> None:
        self._rooms = rooms
        self._side = side_events

    async def of(self, answer: bytes) -> bytes:
        """The /sync answer with its events in the federation format."""
        body: JsonObject = orjson.loads(answer)
        sections = body.get("rooms", {})
        for room_id, section in [*sections.get("join", {}).items(), *sections.get("leave", {}).items()]:
            room = await self._rooms.get(room_id)
            parts = [section[part] for part in PARTS if part in section]
            if room is not None:
                signed = await self._signed(room, [e["event_id"] for part in parts for e in part["events"]])
                for part in parts:
                    part["events"] = [signed.get(e["event_id"], {}) | e for e in part["events"]]
        return orjson.dumps(body)

    async def _signed(self, room: Room, event_ids: Sequence[str]) -> Mapping[str, JsonObject]:
        """What a redaction would leave of the events: with it their signatures and ids are right."""
        found = await self._rooms.log.by_event_id(room.shard, event_ids)
        bodies = {event_id: entry.body for event_id, entry in found.items() if entry.stream == room.room_id}
        beside = [(room.room_id, event_id) for event_id in event_ids if event_id not in bodies]
        bodies |= {side.event_id: side.body for side in await self._side.get_many(beside)}
        return {event_id: redact(room.version, orjson.loads(body)) for event_id, body in bodies.items()}
