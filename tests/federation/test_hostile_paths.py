"""Routes that name rooms: who is shut out of one is refused, and so is a path that contradicts the body.

HARDENING 15 and 19. A route that names a room and is not in the table fails the tests.
"""

from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest

from homeserver.protocol.room_versions import ROOM_VERSIONS
from homeserver.protocol.signing import event_id_of
from tests.client_api.conftest import Client, Reply
from tests.client_api.hostile import PARAMETER
from tests.federation.guest import TOKEN, Guest
from tests.federation.newcomer import Newcomer
from tests.federation.receiving import Receiving
from tests.federation.rooms import events
from tests.federation.servers import V1, V2, Homeserver, OtherServer
from tests.federation.visitor import Visitor

VERSION = "11"
MEMBER = "m.room.member"


class Request(NamedTuple):
    """What stands in the path of a route, in its body, and in its query."""

    path: dict[str, str]
    content: Any = None
    query: dict[str, str] | None = None


class Asker:
    """The visitor's server, which may ask for anything in rooms of alice's."""

    def __init__(self, other: OtherServer, visitor: Visitor, alice: Client, bob: Client) -> None:
        self.other = other
        self._visitor = visitor
        self._alice = alice
        self._bob = bob
        self._numbers = count()
        self.room_id = self.another_room_id = self.knock_room_id = self.oldest_room_id = self.event_id = ""

    async def prepare(self) -> None:
        self.room_id, self.another_room_id, self.knock_room_id = [await self._room(VERSION) for _ in range(3)]
        self.oldest_room_id = await self._room("1")
        await self._alice.set_state(self.knock_room_id, "m.room.join_rules", {"join_rule": "knock"})
        await self._alice.set_state(
            self.room_id, "m.room.third_party_invite", Guest.expected(self.other.peer.site), TOKEN
        )
        self.event_id = await self._alice.send(self.room_id, "hello")

    async def _room(self, version: str) -> str:
        room_id = await self._alice.create_room(
            preset="public_chat", room_version=version, power_level_content_override={"invite": 0}
        )
        await self._visitor.member(room_id, "join")
        return room_id

    @property
    def room_ids(self) -> list[str]:
        return [self.room_id, self.another_room_id, self.knock_room_id, self.oldest_room_id]

    async def ask(self, method: str, route: str, request: Request, **changed: str) -> Reply:
        """The answer to a request, with these changes of its path."""
        named = {**request.path, **changed}
        path = PARAMETER.sub(lambda name: quote(named[name[1]], safe=""), route)
        return await self.other.call(method, path, request.content, query=request.query, expect=None)

    # Requests that are in order

    async def event(self) -> Request:
        path = {"room_id": self.room_id, "event_id": self.event_id}
        return Request(path, query={"event_id": self.event_id})

    async def past(self) -> Request:
        return Request({"room_id": self.room_id}, query={"v": self.event_id, "limit": "1"})

    async def time(self) -> Request:
        return Request({"room_id": self.room_id}, query={"ts": "0", "dir": "f"})

    async def gap(self) -> Request:
        return Request({"room_id": self.room_id}, {"latest_events": [self.event_id], "earliest_events": []})

    async def how_to_join(self) -> Request:
        path = {"room_id": self.room_id, "user_id": self._newcomer().user_id}
        return Request(path, query={"ver": VERSION})

    async def how_to_knock(self) -> Request:
        path = {"room_id": self.knock_room_id, "user_id": self._newcomer().user_id}
        return Request(path, query={"ver": VERSION})

    async def how_to_leave(self) -> Request:
        return Request({"room_id": self.room_id, "user_id": self._visitor.user_id})

    async def join(self) -> Request:
        return await self._handed_in(self._newcomer(), self.room_id, "join")

    async def knock(self) -> Request:
        return await self._handed_in(self._newcomer(), self.knock_room_id, "knock")

    async def leave(self) -> Request:
        newcomer = self._newcomer()
        await newcomer.join(self.room_id)
        return await self._handed_in(newcomer, self.room_id, "leave")

    async def invite(self) -> Request:
        path, pdu = await self._invite(self.room_id)
        return Request(path, {"room_version": VERSION, "event": pdu, "invite_room_state": []})

    async def oldest_invite(self) -> Request:
        path, pdu = await self._invite(self.oldest_room_id)
        return Request(path, {**pdu, "unsigned": {"invite_room_state": []}})

    async def invite_by_mail(self) -> Request:
        guest = Guest(self.other, self.room_id, self._alice.user_id, f"guest{next(self._numbers)}")
        return Request({"room_id": self.room_id}, guest.partial())

    def _newcomer(self) -> Newcomer:
        return Newcomer(self.other, f"newcomer{next(self._numbers)}")

    async def _handed_in(self, newcomer: Newcomer, room_id: str, membership: str) -> Request:
        _, pdu = await newcomer.event(room_id, membership)
        return Request({"room_id": room_id, "event_id": event_id_of(ROOM_VERSIONS[VERSION], pdu)}, pdu)

    async def _invite(self, room_id: str) -> tuple[dict[str, str], Any]:
        content = {"membership": "invite", "reason": str(next(self._numbers))}
        event = await self._visitor.draft(room_id, MEMBER, content, self._bob.user_id)
        event = self._visitor.changed(event, origin=self.other.name)
        return {"room_id": room_id, "event_id": event.event_id}, event.pdu


ASKED: dict[tuple[str, str], Callable[[Asker], Awaitable[Request]]] = {
    ("GET", f"{V1}/event/{{event_id}}"): Asker.event,
    ("GET", f"{V1}/state/{{room_id}}"): Asker.event,
    ("GET", f"{V1}/state_ids/{{room_id}}"): Asker.event,
    ("GET", f"{V1}/event_auth/{{room_id}}/{{event_id}}"): Asker.event,
    ("GET", f"{V1}/backfill/{{room_id}}"): Asker.past,
    ("POST", f"{V1}/get_missing_events/{{room_id}}"): Asker.gap,
    ("GET", f"{V1}/timestamp_to_event/{{room_id}}"): Asker.time,
    ("GET", f"{V1}/hierarchy/{{room_id}}"): Asker.past,
    ("GET", f"{V1}/make_join/{{room_id}}/{{user_id}}"): Asker.how_to_join,
    ("GET", f"{V1}/make_knock/{{room_id}}/{{user_id}}"): Asker.how_to_knock,
    ("GET", f"{V1}/make_leave/{{room_id}}/{{user_id}}"): Asker.how_to_leave,
    ("PUT", f"{V2}/send_join/{{room_id}}/{{event_id}}"): Asker.join,
    ("PUT", f"{V1}/send_knock/{{room_id}}/{{event_id}}"): Asker.knock,
    ("PUT", f"{V2}/send_leave/{{room_id}}/{{event_id}}"): Asker.leave,
    ("PUT", f"{V2}/invite/{{room_id}}/{{event_id}}"): Asker.invite,
    ("PUT", f"{V1}/invite/{{room_id}}/{{event_id}}"): Asker.oldest_invite,
    ("PUT", f"{V1}/exchange_third_party_invite/{{room_id}}"): Asker.invite_by_mail,
}


async def shown(client: Client, room_id: str) -> list[str]:
    return [event["event_id"] for event in await events(client, room_id)]


@pytest.fixture
async def asker(other: OtherServer, visitor: Visitor, alice: Client, bob: Client) -> Asker:
    Receiving(other)  # A server that is taken for away is not asked to be shown an invite.
    asker = Asker(other, visitor, alice, bob)
    await asker.prepare()
    return asker


def test_every_route_that_names_a_room_is_tried(server: Homeserver) -> None:
    declared = {
        (route.method, route.path)
        for module in server.app.federation_modules
        for route, _ in module.routes()
        if {"room_id", "event_id"} & set(PARAMETER.findall(route.path))
    }
    assert declared == ASKED.keys()


async def test_no_route_serves_a_server_that_the_room_shuts_out(asker: Asker, alice: Client) -> None:
    """HARDENING 15."""
    prepared = {}
    for (method, route), prepare in ASKED.items():
        reply = await asker.ask(method, route, await prepare(asker))
        assert reply.status == 200, (route, reply.body)
        prepared[method, route] = await prepare(asker)
    for room_id in asker.room_ids:
        acl = {"allow": ["*"], "deny": [asker.other.name]}
        await alice.set_state(room_id, "m.room.server_acl", acl)
    timelines = [await shown(alice, room_id) for room_id in asker.room_ids]
    for (method, route), request in prepared.items():
        reply = await asker.ask(method, route, request)
        # Of a space it is not said that it exists.
        refused = (404, "M_NOT_FOUND") if "hierarchy" in route else (403, "M_FORBIDDEN")
        assert (reply.status, reply.errcode) == refused, (route, reply.body)
    assert [await shown(alice, room_id) for room_id in asker.room_ids] == timelines


@pytest.mark.parametrize(("method", "route"), [key for key in ASKED if key[0] == "PUT"])
async def test_a_path_that_says_something_else_than_the_body_changes_nothing(
    asker: Asker, alice: Client, bob: Client, method: str, route: str
) -> None:
    """HARDENING 19: the other room and the other event are there as well, and the server is in the room."""
    request = await ASKED[method, route](asker)
    others = {"room_id": asker.another_room_id, "event_id": asker.event_id}
    before = [await shown(alice, room_id) for room_id in asker.room_ids]
    for name in PARAMETER.findall(route):
        reply = await asker.ask(method, route, request, **{name: others[name]})
        assert reply.status == 400, reply.body
        assert reply.errcode == "M_INVALID_PARAM"
    assert [await shown(alice, room_id) for room_id in asker.room_ids] == before
    assert "rooms" not in await bob.sync()
    assert (await asker.ask(method, route, request)).status == 200
