"""Users of other servers in rooms of this one."""

import json
from typing import Any

from homeserver.clock import system_clock
from homeserver.graph.receiving import Outcome
from homeserver.protocol.events import Event, parse_pdu
from homeserver.rooms.authoring import Author, EventTemplate, RoomProposal
from homeserver.rooms.room import Room
from tests.federation.conftest import Homeserver, OtherServer


class Visitor:
    """A user of the other server, who acts in rooms as if this server had been told."""

    def __init__(self, server: Homeserver, other: OtherServer) -> None:
        self.user_id = f"@visitor:{other.name}"
        self._server = server
        self._author = Author(other.name, other.peer.key, system_clock)

    async def room(self, room_id: str) -> Room:
        room = await self._server.app.rooms.get(room_id)
        assert room is not None
        return room

    async def send(self, room_id: str, type: str, content: Any, state_key: str | None = None) -> str:
        room = await self.room(room_id)
        template = EventTemplate(type, self.user_id, content, state_key=state_key)
        proposal = RoomProposal(self._author, room, lambda head: [template])
        (event_id,) = await self._server.app.rooms.submit(room, proposal)
        return event_id

    async def member(self, room_id: str, membership: str) -> str:
        return await self.send(room_id, "m.room.member", {"membership": membership}, self.user_id)

    async def fork(self, room_id: str, head: Any, text: str) -> Event:
        """Send a message upon a head that the room had, and have it received; the event."""
        room = await self.room(room_id)
        template = EventTemplate("m.room.message", self.user_id, {"msgtype": "m.text", "body": text})
        item, _ = self._author.draft(room, head, template, 1, None)
        event = parse_pdu(room.version, json.loads(item.entry.body))
        federation = self._server.app.federation
        assert federation is not None
        assert await federation.receiver.receive(room, event) is Outcome.ACCEPTED
        return event
