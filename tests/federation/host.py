"""Another server with a room of its own, which it lets users of this one into; it can lie about all of it."""

import asyncio
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from aiohttp import web

from homeserver.protocol.event_auth import auth_event_keys
from homeserver.protocol.events import Event, event_template, load_event
from homeserver.protocol.json_types import JsonObject
from homeserver.protocol.room_versions import ROOM_VERSIONS
from homeserver.protocol.signing import SigningKey, content_hash, event_id_of, reference_hash, sign_event
from tests.federation.servers import V1, V2
from tests.federation_transport.peers import Peer

Answer = dict[str, Any]
Lie = Callable[[Answer], Any]
"""Changes an answer, or returns another one."""


class Host:
    """A room of version `version` in which only its creator is, and what the server says of it."""

    def __init__(self, peer: Peer, version: str = "11", *, join_rule: str = "public") -> None:
        self.peer = peer
        self.name = peer.name
        self.version = ROOM_VERSIONS[version]
        self.creator = f"@host:{peer.name}"
        self.room_id = f"!hosted:{peer.name}"
        self.events: list[Event] = []
        self.state: dict[tuple[str, str], Event] = {}
        self.lies: dict[str, Lie] = {}
        """What is changed in the answers of `make_…` and `send_…`."""
        self.stalls = False
        self.members_follow: asyncio.Event | None = None
        """If set: the members of the room are left out of the answer to a join, and told once this is set."""
        self.received: list[Any] = []
        """Events handed in."""
        self.send("m.room.create", "", {"room_version": version, "creator": self.creator})
        if self.version.room_id_is_create_hash:
            self.room_id = self.events[0].room_id
        self.send("m.room.member", self.creator, {"membership": "join"})
        levels = {} if self.version.privileged_creators else {self.creator: 100}
        self.send("m.room.power_levels", "", {"users": levels})
        self.send("m.room.join_rules", "", {"join_rule": join_rule})
        self.send("m.room.name", "", {"name": "Hosted"})

    def send(self, type: str, state_key: str | None, content: Any, **changes: Any) -> Event:
        """Add an event to the room."""
        event = self.event(type, state_key, content, **changes)
        self.events.append(event)
        if state_key is not None:
            self.state[type, state_key] = event
        return event

    def event(
        self,
        type: str,
        state_key: str | None,
        content: Any,
        *,
        key: SigningKey | None = None,
        signer: str | None = None,
        **changes: Any,
    ) -> Event:
        """An event upon the room's last one, with these changes made before it is signed."""
        is_create = type == "m.room.create" and self.version.room_id_is_create_hash
        fields = {**self._fields(type, state_key, content, self.creator), **changes}
        pdu = event_template(self.version, **{**fields, "room_id": None if is_create else fields["room_id"]})
        if not self.version.event_ids_are_hashes:
            pdu["event_id"] = f"${len(self.events)}:{self.name}"
        pdu["hashes"] = {"sha256": content_hash(self.version, pdu)}
        pdu = sign_event(self.version, pdu, signer or self.name, key or self.peer.key)
        return load_event(self.version, pdu, event_id_of(self.version, pdu))

    def _fields(self, type: str, state_key: str | None, content: Any, sender: str) -> Any:
        keys = auth_event_keys(self.version, type, sender, state_key, content)
        return {
            "room_id": self.room_id,
            "type": type,
            "sender": sender,
            "state_key": state_key,
            "content": content,
            "prev_events": [event.event_id for event in self.events[-1:]],
            "auth_events": [self.state[key].event_id for key in keys if key in self.state],
            "depth": len(self.events) + 1,
            "origin_server_ts": 1_700_000_000_000 + len(self.events),
            "reference_hashes": {
                event.event_id: reference_hash(self.version, event.pdu) for event in self.events
            },
        }

    def let_in(self, pdu: JsonObject) -> None:
        """Have an event that was handed in be the room's last one."""
        event = load_event(self.version, pdu, event_id_of(self.version, pdu))
        self.events.append(event)
        if event.state_key is not None:
            self.state[event.type, event.state_key] = event

    def open_to(self, user_id: str, *memberships: str) -> None:
        """Answer the handshakes of a user."""
        pages = self.peer.site.pages
        for membership in memberships or ("join",):
            api = V1 if membership == "knock" else V2
            pages[f"{V1}/make_{membership}/{self.room_id}/{user_id}"] = self._make(membership, user_id)
            self.peer.site.below[f"{api}/send_{membership}/{self.room_id}/"] = self._send(membership)

    def tell_state(self) -> None:
        """Answer what others ask who do not know what an event follows upon."""
        pages = self.peer.site.pages
        state = [event.event_id for event in self.state.values()]
        told = {"pdu_ids": state, "auth_chain_ids": [event.event_id for event in self.events]}
        pages[f"{V1}/get_missing_events/{self.room_id}"] = web.json_response({"events": []})
        pages[f"{V1}/state_ids/{self.room_id}"] = web.json_response(told)

    def tell_members_later(self) -> asyncio.Event:
        """Leave out the members for one who joins; they are told when the event is set that this returns."""
        self.members_follow = follow = asyncio.Event()

        async def state(request: web.BaseRequest) -> web.StreamResponse:
            await follow.wait()
            told = [event.pdu for event in self.state.values()]
            chain = [event.pdu for event in self.events]
            return self._answer("state", {"pdus": told, "auth_chain": chain})

        async def state_ids(request: web.BaseRequest) -> web.StreamResponse:
            await follow.wait()
            told = [event.event_id for event in self.state.values()]
            chain = [event.event_id for event in self.events]
            return self._answer("state_ids", {"pdu_ids": told, "auth_chain_ids": chain})

        self.peer.site.pages[f"{V1}/state/{self.room_id}"] = state
        self.peer.site.pages[f"{V1}/state_ids/{self.room_id}"] = state_ids
        return follow

    def _make(self, membership: str, user_id: str) -> Any:
        async def make(request: web.BaseRequest) -> web.StreamResponse:
            fields = self._fields("m.room.member", user_id, {"membership": membership}, user_id)
            event = event_template(self.version, **fields)
            answer = {"room_version": self.version.identifier, "event": {**event, "origin": self.name}}
            return self._answer(f"make_{membership}", answer)

        return make

    def _send(self, membership: str) -> Any:
        async def send(request: web.BaseRequest) -> web.StreamResponse:
            if self.stalls:
                await asyncio.sleep(3600)
            pdu = json.loads(await request.read())
            assert unquote(request.path.rpartition("/")[2]) == event_id_of(self.version, pdu)
            self.received.append(pdu)
            omits = self.members_follow is not None and "omit_members=true" in request.path_qs
            shown = [event for event in self.state.values() if not (omits and event.type == "m.room.member")]
            event = load_event(self.version, pdu, event_id_of(self.version, pdu))
            chain = self._chain([event, *shown])
            answer = {
                "state": [event.pdu for event in shown],
                "auth_chain": [event.pdu for event in self.events if event.event_id in chain or not omits],
                "event": pdu,
                "members_omitted": omits,
                "servers_in_room": [self.name],
                "knock_room_state": [event.pdu for event in self.state.values()],
            }
            return self._answer(f"send_{membership}", answer)

        return send

    def _chain(self, events: list[Event]) -> set[str]:
        """What some events rest on."""
        by_id = {event.event_id: event for event in self.events}
        chain: set[str] = set()
        named = {each for event in events for each in event.auth_events}
        while new := named & by_id.keys() - chain:
            chain |= new
            named = {each for event_id in new for each in by_id[event_id].auth_events}
        return chain

    def _answer(self, what: str, answer: Answer) -> web.StreamResponse:
        lie = self.lies.get(what)
        told = None if lie is None else lie(answer)
        if isinstance(told, web.StreamResponse):
            return told
        return web.json_response(answer if told is None else told)
