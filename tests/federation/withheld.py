"""What another server keeps to itself until it is asked, and may lie about then."""

import json

from aiohttp import web

from homeserver.protocol.events import Event
from homeserver.protocol.json_types import JsonObject
from homeserver.rooms.room import Room, RoomHead
from tests.federation.servers import V1, OtherServer
from tests.federation.visitor import Visitor


class Withheld:
    """Events of the visitor's that this server was not told of, and what their server says of them."""

    def __init__(self, visitor: Visitor, other: OtherServer, room: Room) -> None:
        self._visitor = visitor
        self._site = other.peer.site
        self._room = room
        self.head = room.head
        self.events: list[Event] = []

    def add(self, type: str, content: JsonObject, state_key: str | None = None) -> Event:
        event, self.head = self._visitor.drafted(self._room, self.head, type, content, state_key)
        self.events.append(event)
        return event

    async def room(self) -> Room:
        return await self._visitor.room(self._room.room_id)

    def tell_missing(self, *pdus: JsonObject) -> None:
        body = json.dumps({"events": list(pdus)})
        self._site.answer(f"{V1}/get_missing_events/{self._room.room_id}", body)

    def tell_state(self, head: RoomHead, *before: Event) -> None:
        """Tell it of these events; of all, if none is named."""
        told = {
            "pdu_ids": [event.event_id for event in head.state.values()],
            "auth_chain_ids": list[str](),
        }
        known = {event.event_id for event in before}

        async def answer(request: web.BaseRequest) -> web.Response:
            if known and request.query["event_id"] not in known:
                return web.json_response({"errcode": "M_NOT_FOUND", "error": "No state"}, status=404)
            return web.json_response(told)

        self._site.pages[f"{V1}/state_ids/{self._room.room_id}"] = answer

    def tell_event(self, event: Event) -> None:
        answer = {
            "origin": self._visitor.user_id.partition(":")[2],
            "origin_server_ts": 1,
            "pdus": [event.pdu],
        }
        self._site.answer(f"{V1}/event/{event.event_id}", json.dumps(answer))
