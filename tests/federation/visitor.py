"""Users of other servers in rooms of this one."""

import json
from typing import Any

from homeserver.clock import system_clock
from homeserver.graph.receiving import Outcome
from homeserver.protocol.event_auth import auth_event_keys
from homeserver.protocol.events import Event, build_event, parse_pdu
from homeserver.protocol.json_types import JsonObject
from homeserver.protocol.signing import content_hash, sign_event
from homeserver.rooms.authoring import Author, EventTemplate, RoomProposal
from homeserver.rooms.policy import NoPolicyServers, Policy
from homeserver.rooms.room import Room, RoomHead
from tests.federation.servers import Homeserver, OtherServer


class Visitor:
    """A user of the other server, who acts in rooms as if this server had been told, or drafts events."""

    def __init__(self, server: Homeserver, other: OtherServer, localpart: str = "visitor") -> None:
        self.user_id = f"@{localpart}:{other.name}"
        self.server = server
        self._author = Author(
            other.name, other.peer.key, system_clock, Policy(NoPolicyServers(), system_clock)
        )

    async def room(self, room_id: str) -> Room:
        room = await self.server.app.rooms.get(room_id)
        assert room is not None
        return room

    async def send(self, room_id: str, type: str, content: Any, state_key: str | None = None) -> str:
        """Put an event into the room; its id."""
        room = await self.room(room_id)
        template = EventTemplate(type, self.user_id, content, state_key=state_key)
        proposal = RoomProposal(self._author, room, lambda head: [template])
        (event_id,) = await self.server.app.rooms.submit(room, proposal)
        return event_id

    async def member(self, room_id: str, membership: str) -> str:
        return await self.send(room_id, "m.room.member", {"membership": membership}, self.user_id)

    async def draft(
        self,
        room_id: str,
        type: str,
        content: Any,
        state_key: str | None = None,
        *,
        redacts: str | None = None,
    ) -> Event:
        """An event upon all that the room has, that this server has not been told of."""
        room = await self.room(room_id)
        event, _ = self.drafted(room, room.head, type, content, state_key, redacts=redacts)
        return event

    def drafted(
        self,
        room: Room,
        head: RoomHead,
        type: str,
        content: Any,
        state_key: str | None = None,
        *,
        redacts: str | None = None,
    ) -> tuple[Event, RoomHead]:
        """An event upon a head that the room had, and the head after it."""
        template = EventTemplate(type, self.user_id, content, state_key=state_key, redacts=redacts)
        item, after = self._author.draft(room, head, template, 1, None)
        return parse_pdu(room.version, json.loads(item.entry.body)), after

    async def unchecked(
        self, room_id: str, type: str, content: Any, state_key: str | None = None, **changes: Any
    ) -> Event:
        """An event upon all that the room has, but for these changes, whatever its rules say."""
        room = await self.room(room_id)
        head, version = room.head, room.version
        keys = auth_event_keys(version, type, self.user_id, state_key, content)
        fields: Any = {
            "prev_events": head.tips,
            "auth_events": [known.event_id for key in keys if (known := head.lookup(*key)) is not None],
            "depth": head.depth + 1,
            **changes,
        }
        event, _ = build_event(
            version,
            room_id=room_id,
            type=type,
            sender=self.user_id,
            state_key=state_key,
            content=content,
            origin_server_ts=system_clock(),
            server_name=self._author.server_name,
            key=self._author.key,
            reference_hashes=dict.fromkeys([*fields["prev_events"], *fields["auth_events"]], ""),
            **fields,
        )
        return event

    def changed(self, event: Event, **fields: Any) -> Event:
        """An event with these fields instead, hashed and signed again."""
        return parse_pdu(event.version, self.changed_pdu(event, **fields))

    def changed_pdu(self, event: Event, **fields: Any) -> JsonObject:
        """The same, be it an event or not."""
        pdu = {**event.pdu, **fields, "signatures": {}}
        pdu["hashes"] = {"sha256": content_hash(event.version, pdu)}
        return sign_event(event.version, pdu, self._author.server_name, self._author.key)

    async def fork(self, room_id: str, head: RoomHead, text: str) -> Event:
        """Send a message upon a head that the room had, and have it received; the event."""
        room = await self.room(room_id)
        event, _ = self.drafted(room, head, "m.room.message", {"msgtype": "m.text", "body": text})
        federation = self.server.app.federation
        assert federation is not None
        assert await federation.receiver.receive(room, event) is Outcome.ACCEPTED
        return event
