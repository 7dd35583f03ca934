"""Joining rooms of servers that may say anything.

HARDENING 3, 4 and 7: of a template nothing is signed but what this server wanted; all that comes with a join
goes through the gate; answers are bounded. A failed join leaves nothing, and stands in nobody's way.
"""

import asyncio
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp import web

import federation.remote_rooms
from homeserver.protocol.signing import SigningKey, sign_event
from tests.client_api.conftest import Client, Reply
from tests.federation.host import Answer, Host
from tests.federation.rooms import members, text, texts
from tests.federation.servers import Homeserver, OtherServer

STRANGER = SigningKey.from_seed("a_1", b"stranger".ljust(32))


@pytest.fixture
def host(other: OtherServer, alice: Client) -> Host:
    host = Host(other.peer)
    host.open_to(alice.user_id)
    return host


async def attempt(client: Client, host: Host, expect: int = 200) -> str | None:
    path = f"/join/{quote(host.room_id)}?via={host.name}"
    return (await client.call("POST", path, {}, expect=expect)).errcode


async def told_nothing(client: Client, host: Host) -> None:
    await client.call("GET", f"/rooms/{quote(host.room_id)}/state", expect=403)
    assert "rooms" not in await client.sync(full=True)


@pytest.mark.parametrize("version", ["1", "6", "12"])
async def test_a_room_is_what_its_host_says(other: OtherServer, alice: Client, version: str) -> None:
    host = Host(other.peer, version)
    host.open_to(alice.user_id)
    await attempt(alice, host)
    state = await alice.get(f"/rooms/{quote(host.room_id)}/state")
    told = {event.event_id for event in host.state.values()}
    assert {event["event_id"] for event in state if event["state_key"] != alice.user_id} == told
    (join,) = host.received
    assert join["content"]["membership"] == "join"


def change(**fields: Any) -> Callable[[Answer], None]:
    return lambda answer: answer["event"].update(fields)


TEMPLATES: dict[str, Callable[[Answer], Any]] = {
    "of another type": change(type="m.room.power_levels"),
    "of another room": change(room_id="!another:example.org"),
    "of another sender": change(sender="@somebody:example.org"),
    "about somebody else": change(state_key="@somebody:example.org"),
    "of another membership": change(content={"membership": "invite"}),
    "without content": change(content=None),
    "of no version": lambda answer: answer.update(room_version="unheard of"),
    "of a version that is none": lambda answer: answer.update(room_version={}),
    "of a version that it does not fit": lambda answer: answer.update(room_version="2"),
    "of a version with other room ids": lambda answer: answer.update(room_version="12"),
    "with references that are none": change(prev_events=[{}]),
    "without references": change(auth_events=None),
    "with too many references": change(prev_events=[f"${n}" for n in range(21)]),
    "with no depth": change(depth=None),
    "of a depth that cannot be": change(depth=-1),
    "that is none": lambda answer: answer.pop("event") and None,
    "that is a list": lambda answer: web.json_response([]),
    "that is too large": lambda answer: answer.update(more="x" * 300_000),
}


@pytest.mark.parametrize("lie", TEMPLATES.values(), ids=TEMPLATES)
async def test_of_a_template_that_is_wrong_nothing_is_signed(
    alice: Client, host: Host, lie: Callable[[Answer], Any]
) -> None:
    host.lies["make_join"] = lie
    await attempt(alice, host, expect=502)
    assert host.received == []
    await told_nothing(alice, host)


@pytest.mark.parametrize(
    ("told", "passed_on"),
    [("org.example.new", "org.example.new"), ("x" * 1_000, None), ({}, None), (None, None)],
)
async def test_of_a_room_that_cannot_be_joined_the_version_is_told(
    alice: Client, host: Host, told: Any, passed_on: str | None
) -> None:
    """Spec: client-server "Common error codes"."""
    refusal = {"errcode": "M_INCOMPATIBLE_ROOM_VERSION", "error": "too new", "room_version": told}
    host.lies["make_join"] = lambda answer: web.json_response(refusal, status=400)
    reply = await alice.call("POST", f"/join/{quote(host.room_id)}?via={host.name}", {}, expect=400)
    assert reply.errcode == "M_INCOMPATIBLE_ROOM_VERSION"
    assert reply.body.get("room_version") == passed_on


async def test_what_else_a_template_says_is_not_signed(alice: Client, host: Host) -> None:
    content = {"membership": "join", "displayname": "Fool", "reason": "because", "third_party_invite": {}}
    host.lies["make_join"] = change(
        content=content, redacts="$event", origin="example.org", hashes={}, extra=1, origin_server_ts=1
    )
    await attempt(alice, host)
    (join,) = host.received
    assert join["content"] == {"membership": "join", "displayname": "alice"}
    assert not {"redacts", "origin", "extra"} & join.keys()
    assert join["origin_server_ts"] > 1_700_000_000_000


async def test_a_member_who_is_no_user_does_not_come_along(other: OtherServer, alice: Client) -> None:
    """HARDENING 10: whom a create event names may join, whoever that is; and there may be two of these."""
    host = Host(other.peer, "10")
    host.open_to(alice.user_id)
    again = host.event(
        "m.room.create", "", {"room_version": "10", "creator": "nobody"}, prev_events=[], auth_events=[]
    )
    founded = {"prev_events": [again.event_id], "auth_events": [again.event_id]}
    host.events.insert(0, again)
    host.send("m.room.member", "nobody", {"membership": "join"}, **founded)
    host.send("m.room.topic", "", {"topic": "x"})
    await attempt(alice, host)
    assert (await alice.sync(full=True))["rooms"]["join"].keys() == {host.room_id}
    assert (await members(alice, host.room_id)).keys() == {host.creator, alice.user_id}
    await alice.send(host.room_id, "on we go")


def without(host: Host, *types: str) -> Callable[[Answer], None]:
    def lie(answer: Answer) -> None:
        for key in ("state", "auth_chain"):
            answer[key] = [pdu for pdu in answer[key] if pdu["type"] not in types]

    return lie


def replaced(host: Host, type: str, pdu: Any) -> Callable[[Answer], None]:
    """One event of the room is told otherwise."""

    def lie(answer: Answer) -> None:
        for key in ("state", "auth_chain"):
            answer[key] = [pdu if each["type"] == type else each for each in answer[key]]

    return lie


def added(host: Host, *events: Any) -> Callable[[Answer], None]:
    return lambda answer: answer["state"].extend(events)


def pdu_of(host: Host, type: str) -> Any:
    return host.state[type, ""].pdu


LIES: dict[str, Callable[[Host], Callable[[Answer], Any]]] = {
    "no state": lambda host: lambda answer: answer.pop("state") and None,
    "no auth chain": lambda host: lambda answer: answer.pop("auth_chain") and None,
    "a state that is no list": lambda host: lambda answer: answer.update(state={}),
    "an empty room": lambda host: lambda answer: answer.update(state=[], auth_chain=[]),
    "no create event": lambda host: without(host, "m.room.create"),
    "no join rules": lambda host: without(host, "m.room.join_rules"),
    "members left out, and no servers said to be there": lambda host: (
        lambda answer: answer.update(members_omitted=True, servers_in_room=[])
    ),
    "two events under one key": lambda host: added(host, host.event("m.room.name", "", {"name": "B"}).pdu),
    "a message in the state": lambda host: added(host, host.event("m.room.message", None, {}).pdu),
    "a create event that nobody signed": lambda host: replaced(
        host, "m.room.create", {**pdu_of(host, "m.room.create"), "signatures": {}}
    ),
    "a create event by a stranger's key": lambda host: replaced(
        host,
        "m.room.create",
        host.event(
            "m.room.create",
            "",
            {"room_version": "11"},
            key=STRANGER,
            prev_events=[],
        ).pdu,
    ),
    "a create event of another room": lambda host: replaced(
        host,
        "m.room.create",
        host.event(
            "m.room.create", "", {"room_version": "11"}, room_id=f"!another:{host.name}", prev_events=[]
        ).pdu,
    ),
    "a create event of another version": lambda host: replaced(
        host,
        "m.room.create",
        host.event("m.room.create", "", {"room_version": "10"}, prev_events=[]).pdu,
    ),
    "altered join rules": lambda host: replaced(
        host, "m.room.join_rules", {**pdu_of(host, "m.room.join_rules"), "content": {"join_rule": "x"}}
    ),
    "no answer that is JSON": lambda host: lambda answer: web.Response(text="no"),
    "an error": lambda host: lambda answer: web.json_response({"errcode": "M_UNKNOWN"}, status=400),
    "a session that has ended": lambda host: (
        lambda answer: web.json_response({"errcode": "M_UNKNOWN_TOKEN"}, status=401)
    ),
}


@pytest.mark.parametrize("lies", LIES.values(), ids=LIES)
async def test_a_room_that_cannot_be_is_not_joined(
    alice: Client, host: Host, lies: Callable[[Host], Callable[[Answer], Any]]
) -> None:
    host.lies["send_join"] = lies(host)
    await attempt(alice, host, expect=502)
    await told_nothing(alice, host)
    del host.lies["send_join"]
    await attempt(alice, host)


async def test_what_does_not_belong_into_a_state_is_left_out(
    server: Homeserver, alice: Client, host: Host
) -> None:
    forged = host.event("m.room.topic", "", {"topic": "forged"}, key=STRANGER)
    stolen = host.event("m.room.member", f"@stolen:{server.name}", {"membership": "join"})
    usurper = host.event("m.room.avatar", "", {"url": "mxc://a/b"}, sender=f"@usurper:{host.name}")
    baseless = host.event("m.room.topic", "x", {}, auth_events=["$unknown"])
    elsewhere = host.event("m.room.topic", "y", {}, room_id="!another:example.org")
    good = host.event("m.room.topic", "z", {"topic": "good"})
    told = [each.pdu for each in (forged, stolen, usurper, baseless, elsewhere, good)]
    host.lies["send_join"] = lambda answer: answer["state"].extend([*told, {}, None, 1, "x"])
    await attempt(alice, host)
    state = await alice.get(f"/rooms/{quote(host.room_id)}/state")
    believed = {event["event_id"] for event in state}
    assert good.event_id in believed
    wrong = {each.event_id for each in (forged, stolen, usurper, baseless, elsewhere)}
    assert not wrong & believed


async def test_another_join_than_ours_is_not_taken(alice: Client, host: Host) -> None:
    other = host.event("m.room.member", f"@x:{host.name}", {"membership": "join"}).pdu
    host.lies["send_join"] = lambda answer: answer.update(event=other)
    await attempt(alice, host)
    state = await alice.get(f"/rooms/{quote(host.room_id)}/state")
    members = {event["state_key"] for event in state if event["type"] == "m.room.member"}
    assert members == {alice.user_id, host.creator}


@pytest.mark.parametrize("version", ["8", "12"])
async def test_a_join_in_another_users_name_needs_their_servers_signature(
    other: OtherServer, alice: Client, version: str
) -> None:
    host = Host(other.peer, version, join_rule="restricted")
    host.open_to(alice.user_id)

    def authorised(answer: Answer) -> None:
        answer["event"]["content"]["join_authorised_via_users_server"] = host.creator
        answer["event"]["auth_events"].append(host.state["m.room.member", host.creator].event_id)

    host.lies["make_join"] = authorised
    await attempt(alice, host, expect=502)
    await told_nothing(alice, host)

    def signed(answer: Answer) -> None:
        answer["event"] = sign_event(host.version, answer["event"], host.name, other.peer.key)

    host.lies["send_join"] = lambda answer: answer["event"]["signatures"].update(
        {host.name: {"ed25519:a": "A"}}
    )
    await attempt(alice, host, expect=502)
    host.lies["send_join"] = signed
    await attempt(alice, host)


async def test_a_host_that_says_too_much_or_nothing_is_given_up(
    alice: Client, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(federation.remote_rooms, "MAX_JOIN_BYTES", 100_000)
    host.lies["send_join"] = lambda answer: answer.update(more="x" * 200_000)
    await attempt(alice, host, expect=502)
    host.lies["send_join"] = lambda answer: answer["state"].extend([{}] * 10)
    monkeypatch.setattr(federation.remote_rooms, "MAX_JOIN_EVENTS", 10)
    await attempt(alice, host, expect=502)
    monkeypatch.undo()
    monkeypatch.setattr(federation.remote_rooms, "STATE_SECONDS", 0.5)
    host.stalls = True
    await attempt(alice, host, expect=502)
    await told_nothing(alice, host)


async def test_what_is_said_before_the_answer_to_a_join_has_come_is_in_the_room(
    other: OtherServer, alice: Client, host: Host
) -> None:
    """For the other server, this one is in the room already."""
    pages = host.peer.site.below
    ((path, send),) = pages.items()
    told: list[asyncio.Task[Reply]] = []

    async def speak_first(request: web.BaseRequest) -> web.StreamResponse:
        answer: web.StreamResponse = await send(request)
        host.let_in(host.received[0])
        said = host.send("m.room.message", None, text("welcome"))
        told.append(asyncio.create_task(other.send(said.pdu)))
        await asyncio.wait(told, timeout=0.3)
        return answer

    pages[path] = speak_first
    await attempt(alice, host)
    assert (await told[0]).body["pdus"] == {host.events[-1].event_id: {}}
    assert await texts(alice, host.room_id) == ["welcome"]


async def test_who_hangs_up_has_joined_all_the_same_or_not_at_all(
    server: Homeserver, alice: Client, host: Host
) -> None:
    waiting = asyncio.Event()
    going = asyncio.Event()
    pages = host.peer.site.below

    async def slow(request: web.BaseRequest) -> web.StreamResponse:
        waiting.set()
        await going.wait()
        return await send(request)

    ((start, send),) = pages.items()
    pages[start] = slow
    task = asyncio.create_task(attempt(alice, host))
    await waiting.wait()
    task.cancel()
    going.set()
    async with asyncio.timeout(10):
        while not (await alice.get("/joined_rooms"))["joined_rooms"]:
            await asyncio.sleep(0.05)
    await attempt(alice, host)
