"""Rooms with a policy server: what it does not sign is not sent, and not shown (spec: "Policy Servers")."""

import asyncio
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp import web

from homeserver.protocol.events import Event
from homeserver.protocol.room_versions import ROOM_VERSIONS
from homeserver.protocol.signing import SigningKey, sign_event, verify_event_signature
from tests.client_api.conftest import Client
from tests.client_api.test_account import deactivate
from tests.federation.receiving import Receiving
from tests.federation.rooms import MESSAGE, members, texts
from tests.federation.servers import Homeserver, OtherServer
from tests.federation.visitor import Visitor

KEY_ID = "ed25519:policy_server"
KEY = SigningKey.from_seed("policy_server", b"policy".ljust(32))


class Judge:
    """The other server as a policy server: it signs what does not speak of spam."""

    def __init__(self, other: OtherServer, version: str = "11") -> None:
        self.name = other.name
        self.version = ROOM_VERSIONS[version]
        self.key = KEY
        self.asked: list[Any] = []
        self.answer: Callable[[Any], web.Response] = self.judge
        other.peer.site.pages["/_matrix/policy/v1/sign"] = self._handle

    async def _handle(self, request: web.BaseRequest) -> web.Response:
        pdu = json.loads(await request.read())
        self.asked.append(pdu)
        return self.answer(pdu)

    def judge(self, pdu: Any) -> web.Response:
        if "spam" in json.dumps(pdu["content"]):
            return web.json_response({"errcode": "M_FORBIDDEN", "error": "It looks like spam"}, status=400)
        return web.json_response({self.name: {KEY_ID: self.signature(pdu)}})

    def signature(self, pdu: Any) -> str:
        signed = sign_event(self.version, {**pdu, "signatures": {}}, self.name, self.key)
        text: str = signed["signatures"][self.name][KEY_ID]
        return text

    def signed(self, event: Event) -> Any:
        own = {**event.pdu["signatures"].get(self.name, {}), KEY_ID: self.signature(event.pdu)}
        return {**event.pdu, "signatures": {**event.pdu["signatures"], self.name: own}}

    def content(self) -> Any:
        return {"via": self.name, "public_keys": {"ed25519": KEY.verify_key_base64}}


@pytest.fixture
def judge(other: OtherServer) -> Judge:
    return Judge(other)


@pytest.fixture
async def room_id(alice: Client, visitor: Visitor, receiving: Receiving, judge: Judge) -> str:
    """A room of which the other server sees each event first."""
    room_id = await alice.create_room(preset="public_chat", room_version="11")
    await visitor.member(room_id, "join")
    await alice.set_state(room_id, "m.room.policy", judge.content())
    assert judge.asked == []
    return room_id


async def refused(client: Client, room_id: str, text: str, status: int) -> Any:
    path = f"/rooms/{quote(room_id)}/send/{MESSAGE}/{text.replace(' ', '')}"
    return (await client.call("PUT", path, {"msgtype": "m.text", "body": text}, expect=status)).body


async def deliver(other: OtherServer, pdu: Any) -> None:
    answer = (await other.send(pdu)).body
    assert all(result == {} for result in answer["pdus"].values())


async def test_what_is_sent_is_signed_first(
    alice: Client, other: OtherServer, judge: Judge, room_id: str
) -> None:
    event_id = await alice.send(room_id, "hello")
    (pdu,) = (await other.get(f"/_matrix/federation/v1/event/{quote(event_id, safe='')}"))["pdus"]
    verify_event_signature(judge.version, pdu, judge.name, KEY_ID, KEY.verify_key_base64)
    await alice.set_state(room_id, "m.room.topic", {"topic": "x"})
    assert [each["type"] for each in judge.asked] == [MESSAGE, "m.room.topic"]


async def test_what_is_refused_is_not_sent(alice: Client, judge: Judge, room_id: str) -> None:
    error = await refused(alice, room_id, "spam", 400)
    assert error == {"errcode": "M_FORBIDDEN", "error": "It looks like spam"}
    judge.key = SigningKey.from_seed("policy_server", b"another".ljust(32))
    await refused(alice, room_id, "with another key", 400)
    for n, answer in enumerate(({}, {judge.name: {}}, {judge.name: {KEY_ID: 1}}, {judge.name: []})):
        judge.answer = lambda pdu, answer=answer: web.json_response(answer)  # type: ignore[misc]
        await refused(alice, room_id, f"answered {n}", 400)
    judge.answer = lambda pdu: web.json_response({}, status=500)
    await refused(alice, room_id, "without answer", 502)
    assert await texts(alice, room_id) == []
    await alice.set_state(room_id, "m.room.policy", {})
    await alice.send(room_id, "spam")
    assert await texts(alice, room_id) == ["spam"]


async def test_a_policy_server_that_is_away_holds_up_no_end_of_an_account(
    server: Homeserver, alice: Client, bob: Client, judge: Judge, room_id: str
) -> None:
    another = await bob.create_room(preset="public_chat")
    await alice.join(another)
    await alice.put(f"/profile/{alice.user_id}/displayname", {"displayname": "Alice"})
    judge.answer = lambda pdu: web.json_response({}, status=500)
    await deactivate(server, alice, erase=True)
    assert (await members(bob, another))[alice.user_id] == "leave"
    assert await server.app.people.profiles.get(alice.user_id) == {}


async def test_erasure_holds_in_rooms_that_cannot_be_left_too(
    server: Homeserver, other: OtherServer, alice: Client, bob: Client, judge: Judge, room_id: str
) -> None:
    await bob.join(room_id)
    mine = await bob.send(room_id, "to be forgotten")
    await alice.send(room_id, "stays")
    judge.answer = lambda pdu: web.json_response({"errcode": "M_FORBIDDEN"}, status=400)
    await deactivate(server, bob, erase=True)
    judge.answer = judge.judge
    assert (await members(alice, room_id))[bob.user_id] == "join"
    carol = await server.register("carol")
    await carol.join(room_id)
    assert await texts(carol, room_id) == [None, "stays"]
    (timeline,) = [room["timeline"] for room in (await carol.sync(full=True))["rooms"]["join"].values()]
    (shown,) = [event for event in timeline["events"] if event["event_id"] == mine]
    assert shown["content"] == {}
    (pdu,) = (await other.get(f"/_matrix/federation/v1/event/{quote(mine, safe='')}"))["pdus"]
    assert pdu["content"] == {}
    assert await texts(alice, room_id) == ["to be forgotten", "stays"], "what she was sent in time"


async def test_many_who_send_at_once_all_have_it_signed(alice: Client, judge: Judge, room_id: str) -> None:
    said = [f"text {n}" for n in range(8)]
    await asyncio.gather(*(alice.send(room_id, text) for text in said))
    assert set(await texts(alice, room_id)) == set(said)
    assert len(await texts(alice, room_id)) == 8
    assert len(judge.asked) == 8


async def test_what_others_send_needs_the_signature_too(
    alice: Client, other: OtherServer, visitor: Visitor, judge: Judge, room_id: str
) -> None:
    signed = await visitor.unchecked(room_id, MESSAGE, {"body": "signed"})
    await deliver(other, judge.signed(signed))
    assert judge.asked == []
    await deliver(other, (await visitor.unchecked(room_id, MESSAGE, {"body": "asked about"})).pdu)
    assert len(judge.asked) == 1
    spam = await visitor.unchecked(room_id, MESSAGE, {"body": "spam"})
    await deliver(other, spam.pdu)
    assert await texts(alice, room_id) == ["signed", "asked about"]
    await alice.call("GET", f"/rooms/{quote(room_id)}/event/{quote(spam.event_id)}", expect=404)
    assert await alice.send(room_id, "after")
    assert await texts(alice, room_id) == ["signed", "asked about", "after"]


async def test_what_comes_unsigned_while_the_policy_server_is_away_stays_unseen(
    alice: Client, other: OtherServer, visitor: Visitor, judge: Judge, room_id: str
) -> None:
    unsigned = await visitor.unchecked(room_id, MESSAGE, {"body": "meanwhile"})
    judge.answer = lambda pdu: web.json_response({}, status=503)
    await deliver(other, unsigned.pdu)
    judge.answer = judge.judge
    await deliver(other, judge.signed(await visitor.unchecked(room_id, MESSAGE, {"body": "signed"})))
    assert await texts(alice, room_id) == ["signed"]
    assert len(judge.asked) == 1


async def test_a_server_that_is_not_in_the_room_is_no_policy_server(
    alice: Client, other: OtherServer, visitor: Visitor, judge: Judge, room_id: str
) -> None:
    leave = await visitor.unchecked(room_id, "m.room.member", {"membership": "leave"}, visitor.user_id)
    await deliver(other, leave.pdu)
    judge.asked.clear()
    await alice.send(room_id, "spam")
    assert judge.asked == []


async def test_settings_that_are_none_do_no_harm(alice: Client, judge: Judge, room_id: str) -> None:
    right = judge.content()
    for content in (
        {},
        {"via": judge.name},
        {"via": [], "public_keys": right["public_keys"]},
        {"via": judge.name, "public_keys": []},
        {"via": judge.name, "public_keys": {"ed25519": 1}},
    ):
        await alice.set_state(room_id, "m.room.policy", content)
        await alice.send(room_id, "spam")
    await alice.set_state(room_id, "m.room.policy", {"via": judge.name, "public_keys": {"ed25519": "x"}})
    await refused(alice, room_id, "for a key that is none", 400)
