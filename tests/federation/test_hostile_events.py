"""Servers that send events which they should not, and answer with lies what is asked about them.

HARDENING 2, 4, 7, 8 and 13: nothing of it is in the room afterwards, and the room goes on.
"""

import asyncio
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from aiohttp import web
from structlog.testing import capture_logs

import federation.incoming
from homeserver.protocol.event_auth import auth_event_keys
from homeserver.protocol.events import Event
from homeserver.protocol.json_types import JsonObject
from storage.errors import StoreUnavailable
from storage.records.staged_events import StagedEvent
from tests.client_api.conftest import Client
from tests.federation.host import Host
from tests.federation.receiving import Receiving
from tests.federation.rooms import MESSAGE, events, state_of, text, texts
from tests.federation.servers import V1, Homeserver, OtherServer, another
from tests.federation.visitor import Visitor
from tests.federation.withheld import Withheld
from tests.federation_transport.network import Internet
from tests.waiting import until

LARGEST = (1 << 53) - 1
PATIENCE_SECONDS = 60.0

Answer = Callable[[web.BaseRequest, Event], Any]
"""What is answered, whatever was asked, about an event."""


def everything(events: Any, ids: Any) -> JsonObject:
    """The same under all names that answers have for lists of events, and of their ids."""
    return {"events": events, "pdus": events, "auth_chain": events, "pdu_ids": ids, "auth_chain_ids": ids}


async def endless(request: web.BaseRequest, event: Event) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b'{"events":[')
    try:
        while True:
            await response.write(b"1," * 500_000)
    except ConnectionError:
        return response


async def cut_short(request: web.BaseRequest, event: Event) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b'{"events":[')
    assert request.transport is not None
    request.transport.close()
    return response


ANSWERS: dict[str, Answer] = {
    "what is no event": lambda request, event: everything(
        [None, 1, "x", [], {}, {"type": 1}, {"event_id": {}}], [None, 1, {}]
    ),
    "no lists": lambda request, event: everything({"0": {}}, "$x"),
    "no event ids": lambda request, event: everything([], ["x", "", "$" * 300]),
    "nothing at all": lambda request, event: {},
    "the event itself": lambda request, event: everything([event.pdu] * 200, [event.event_id] * 200),
    "another room's event": lambda request, event: everything(
        [{**event.pdu, "room_id": "!elsewhere:example.org"}], [event.event_id]
    ),
    "very many ids": lambda request, event: everything([], [f"${n:043}" for n in range(100_001)]),
    "deep nesting": lambda request, event: json.loads("[" * 200 + "]" * 200),
    "no JSON": lambda request, event: web.Response(body=b"\xff{NaN"),
    "an error without an end": lambda request, event: web.Response(status=403, body=b"x" * 5_000_000),
    "an answer without an end": endless,
    "half of an answer": cut_short,
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
async def test_lies_about_what_lies_behind_an_event_hold_up_nobody(
    alice: Client, other: OtherServer, visitor: Visitor, room_id: str, answer: Answer
) -> None:
    """HARDENING 4, 7: the event waits, and nothing else does."""
    withheld = Withheld(visitor, other, await visitor.room(room_id))
    withheld.add(MESSAGE, text("lost"))
    late = withheld.add(MESSAGE, text("late"))

    async def lie(request: web.BaseRequest) -> web.StreamResponse:
        told = answer(request, late)
        if asyncio.iscoroutine(told):
            told = await told
        return told if isinstance(told, web.StreamResponse) else web.json_response(told)

    other.peer.site.below[f"{V1}/"] = lie
    before = await state_of(alice, room_id)
    async with asyncio.timeout(PATIENCE_SECONDS):
        with capture_logs() as logged:
            assert (await other.send(late.pdu)).body == {"pdus": {late.event_id: {}}}
            while not (said := [each for each in logged if each.get("event_id") == late.event_id]):
                await asyncio.sleep(0.02)
        assert [each["event"] for each in said] == ["event not completed"]
        good = await visitor.draft(room_id, MESSAGE, text("good"))
        assert (await other.send(good.pdu)).body == {"pdus": {good.event_id: {}}}
        assert await texts(alice, room_id) == ["good"]
        assert await state_of(alice, room_id) == before
        await alice.send(room_id, "on we go")


async def grounds(visitor: Visitor, room_id: str) -> list[str]:
    """What a message of the visitor's should rest on."""
    head, version = (await visitor.room(room_id)).head, (await visitor.room(room_id)).version
    keys = auth_event_keys(version, MESSAGE, visitor.user_id, None, {})
    return [known.event_id for key in keys if (known := head.lookup(*key)) is not None]


async def test_only_so_many_events_of_a_room_wait_for_what_they_follow_upon(
    alice: Client, other: OtherServer, visitor: Visitor, room_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HARDENING 38: nobody has it, and each of them would be kept for a day."""
    monkeypatch.setattr(federation.incoming, "MAX_STAGED", 20)
    elsewhere = await alice.create_room(preset="public_chat")
    await visitor.member(elsewhere, "join")
    baseless = [
        await visitor.unchecked(room_id, MESSAGE, text("x"), prev_events=[f"${number:043}"])
        for number in range(40)
    ]
    results = (await other.send(*(event.pdu for event in baseless))).body["pdus"]
    assert [event.event_id for event in baseless if "error" in results[event.event_id]]
    good = await visitor.draft(elsewhere, MESSAGE, text("good"))
    assert (await other.send(good.pdu)).body == {"pdus": {good.event_id: {}}}
    assert await texts(alice, elsewhere) == ["good"]


async def test_what_could_not_be_kept_does_not_wait(
    server: Homeserver, other: OtherServer, visitor: Visitor, room_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the store is away, its server sends it again and again."""
    monkeypatch.setattr(federation.incoming, "MAX_STAGED", 3)
    early = await visitor.unchecked(room_id, MESSAGE, text("x"), prev_events=[f"${0:043}"])
    assert server.app.federation is not None
    staged = server.app.federation.incoming._staged

    async def away(record: StagedEvent) -> None:
        raise StoreUnavailable("away")

    with monkeypatch.context() as patched:
        patched.setattr(staged, "put", away)
        for _ in range(4):
            await other.send(early.pdu, expect=503)
    assert (await other.send(early.pdu)).body == {"pdus": {early.event_id: {}}}


async def test_servers_that_the_room_shuts_out_are_asked_nothing(
    internet: Internet,
    server: Homeserver,
    http: aiohttp.ClientSession,
    alice: Client,
    other: OtherServer,
    visitor: Visitor,
    room_id: str,
) -> None:
    """HARDENING 15: of those who may know what an event follows upon."""
    denied, asked = [await another(internet, server, http) for _ in range(2)]
    for each in (denied, asked):
        Receiving(each)
        await Visitor(server, each).member(room_id, "join")
    await alice.set_state(room_id, "m.room.server_acl", {"allow": ["*"], "deny": [denied.name]})
    withheld = Withheld(visitor, other, await visitor.room(room_id))
    withheld.add(MESSAGE, text("lost"))
    await other.send(withheld.add(MESSAGE, text("late")).pdu)
    await until(lambda: is_asked(asked))
    assert not is_asked(denied)


def is_asked(other: OtherServer) -> bool:
    return any(seen.target.startswith(f"{V1}/get_missing_events/") for seen in other.peer.site.seen)


@pytest.mark.parametrize("wrong", ["another room's", "rejected", "doubled", "unasked", "unknown", "none"])
async def test_events_that_rest_on_the_wrong_ones_do_not_come_in(
    alice: Client, other: OtherServer, visitor: Visitor, room_id: str, wrong: str
) -> None:
    """HARDENING 2."""
    right = await grounds(visitor, room_id)
    if wrong == "another room's":
        elsewhere = await alice.create_room(preset="public_chat")
        named = [*right[:-1], await visitor.member(elsewhere, "join")]
    elif wrong == "rejected":
        seized = await visitor.unchecked(
            room_id, "m.room.power_levels", {"users": {visitor.user_id: 100}}, ""
        )
        await other.send(seized.pdu)
        named = [*right[1:], seized.event_id]
    else:
        name = (await visitor.room(room_id)).head.lookup("m.room.history_visibility", "")
        assert name is not None
        named = {
            "doubled": [*right, right[-1]],
            "unasked": [*right, name.event_id],
            "unknown": [*right, "$" + "a" * 43],
            "none": [],
        }[wrong]
    event = await visitor.unchecked(room_id, MESSAGE, text("hello"), auth_events=named)
    await other.send(event.pdu)
    good = await visitor.draft(room_id, MESSAGE, text("good"))
    assert event.event_id not in good.prev_events
    await other.send(good.pdu)
    assert await texts(alice, room_id) == ["good"]


async def test_the_greatest_depth_stops_nobody(
    alice: Client, other: OtherServer, visitor: Visitor, room_id: str
) -> None:
    """HARDENING 8: depth says nothing about the order of events, and has an end."""
    room = await visitor.room(room_id)
    deepest, _ = visitor.drafted(room, room.head._replace(depth=LARGEST - 1), MESSAGE, text("deepest"))
    assert deepest.depth == LARGEST
    assert (await other.send(deepest.pdu)).body == {"pdus": {deepest.event_id: {}}}
    await alice.send(room_id, "and on")
    behind = await visitor.draft(room_id, MESSAGE, text("and on and on"))
    assert behind.depth == LARGEST
    await other.send(behind.pdu)
    assert await texts(alice, room_id) == ["deepest", "and on", "and on and on"]


@pytest.mark.parametrize("time", [1 - (1 << 63), (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
async def test_no_time_of_an_event_stops_others(
    alice: Client, other: OtherServer, visitor: Visitor, time: int
) -> None:
    """HARDENING 8: the oldest room versions set no limit to it."""
    room_id = await alice.create_room(preset="public_chat", room_version="4")
    await visitor.member(room_id, "join")
    odd = visitor.changed_pdu(
        await visitor.draft(room_id, MESSAGE, text("at any time")), origin_server_ts=time
    )
    good = await visitor.draft(room_id, MESSAGE, text("good"))
    answers = (await other.send(odd, good.pdu)).body["pdus"]
    assert answers[good.event_id] == {}
    assert (await texts(alice, room_id))[-1] == "good"


async def test_members_who_are_no_users_stop_nobody(
    server: Homeserver,
    alice: Client,
    other: OtherServer,
    visitor: Visitor,
    receiving: Receiving,
    room_id: str,
) -> None:
    """HARDENING 9: to the auth rules whoever is banned may be called anything."""
    levels = await alice.get(f"/rooms/{room_id}/state/m.room.power_levels")
    levels["users"] = {**levels.get("users", {}), visitor.user_id: 60}
    await alice.put(f"/rooms/{room_id}/state/m.room.power_levels", levels)
    for key in ("nobody", "@x:no name", other.name, server.name):
        ban = await visitor.draft(room_id, "m.room.member", {"membership": "ban"}, key)
        assert (await other.send(ban.pdu)).body == {"pdus": {ban.event_id: {}}}
    last = await alice.send(room_id, "on we go")
    await until(lambda: "on we go" in receiving.texts)
    fetched = await other.get(f"{V1}/backfill/{room_id}", query={"v": last, "limit": "1"})
    assert [pdu["content"]["body"] for pdu in fetched["pdus"]] == ["on we go"]


@pytest.mark.parametrize("state_key", ["", "another"])
async def test_a_room_is_not_created_again(
    server: Homeserver, alice: Client, other: OtherServer, state_key: str
) -> None:
    """HARDENING 1: who gave the room its id may sign another beginning, which the auth rules allow."""
    host = Host(other.peer)
    host.open_to(alice.user_id)
    await alice.post(f"/join/{quote(host.room_id)}?via={host.name}")
    host.let_in(host.received[-1])
    before = await state_of(alice, host.room_id)
    content = {"room_version": "1", "creator": host.creator}
    again = host.event("m.room.create", state_key, content, prev_events=[], auth_events=[])
    answer = (await other.send(again.pdu)).body["pdus"]
    assert "error" in answer[again.event_id]
    assert (await other.send(host.events[0].pdu)).body["pdus"] == {host.events[0].event_id: {}}
    assert await state_of(alice, host.room_id) == before
    sent = await alice.send(host.room_id, "on we go")
    assert [event["event_id"] for event in await events(alice, host.room_id)][-1] == sent
    upon = host.event(MESSAGE, None, text("good"), prev_events=[sent], depth=100)
    assert (await other.send(upon.pdu)).body["pdus"] == {upon.event_id: {}}
    await server.restart()
    client = server.client()
    client.token = alice.token
    assert await texts(client, host.room_id) == ["on we go", "good"]
    assert await state_of(client, host.room_id) == before


async def test_a_room_with_hundreds_of_ends_goes_on(
    alice: Client, other: OtherServer, visitor: Visitor, room_id: str
) -> None:
    """HARDENING 13: one server writes upon the same event again and again."""
    room = await visitor.room(room_id)
    head = room.head
    forks = [visitor.drafted(room, head, MESSAGE, text(str(number)))[0] for number in range(500)]
    async with asyncio.timeout(PATIENCE_SECONDS):
        for first in range(0, len(forks), 50):
            some = forks[first : first + 50]
            reply = await other.send(*(event.pdu for event in some))
            assert reply.body == {"pdus": {event.event_id: {} for event in some}}
            assert len(room.head.tips) <= 10
        await alice.send(room_id, "on we go")
    assert len(room.head.tips) == 1


async def test_a_chain_of_ten_thousand_grounds_is_walked_without_falling(
    alice: Client, other: OtherServer, visitor: Visitor, room_id: str
) -> None:
    """HARDENING 13: what an event rests on, and that again, as long as the other server likes."""
    room = await visitor.room(room_id)
    first = await grounds(visitor, room_id)
    member = (await visitor.room(room_id)).head.state["m.room.member", visitor.user_id].event_id
    others = [event_id for event_id in first if event_id != member]
    rules = room.head.state["m.room.join_rules", ""].event_id
    chain: list[JsonObject] = []
    newest = member
    for number in range(10_000):
        event = await visitor.unchecked(
            room_id,
            "m.room.member",
            {"membership": "join", "displayname": str(number)},
            visitor.user_id,
            prev_events=[newest],
            auth_events=[*others, rules, newest],
            depth=room.head.depth + 1 + number,
        )
        chain.append(event.pdu)
        newest = event.event_id
    resting = await visitor.unchecked(room_id, MESSAGE, text("hello"), auth_events=[*others, newest])
    body = json.dumps({"auth_chain": chain})
    other.peer.site.answer(f"{V1}/event_auth/{room_id}/{resting.event_id}", body)
    before = await state_of(alice, room_id)
    await other.send(resting.pdu)
    async with asyncio.timeout(PATIENCE_SECONDS):
        await until(lambda: is_known(visitor, room_id, newest), seconds=PATIENCE_SECONDS)
        await alice.send(room_id, "on we go")
    assert await state_of(alice, room_id) == before


async def is_known(visitor: Visitor, room_id: str, event_id: str) -> bool:
    federation = visitor.server.app.federation
    assert federation is not None
    return bool(await federation.graph_events.get_many(await visitor.room(room_id), [event_id]))
