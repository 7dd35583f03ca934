"""Events, state and history, as servers with users in a room ask for them.

HARDENING 15, 20 and 35: who may see a room, and what of it, is decided for servers as it is for users.
"""

from typing import Any
from urllib.parse import quote

import aiohttp
import pytest

from homeserver.clock import system_clock
from homeserver.graph.receiving import Outcome
from homeserver.protocol.events import Event, parse_pdu
from homeserver.protocol.room_versions import ROOM_VERSIONS
from homeserver.protocol.signing import VerifyKey, check_content_hash, verify_event_signatures
from tests.client_api.conftest import VALIDATOR, Client
from tests.client_api.sliding import Sliding, messages_in, whole_list
from tests.client_api.test_erasure import deactivate
from tests.federation.host import Host
from tests.federation.rooms import text, texts
from tests.federation.servers import V1, Homeserver, OtherServer, another
from tests.federation.visitor import Visitor
from tests.federation_transport.network import Internet

PATHS = (
    f"{V1}/state/{{room_id}}?event_id={{event_id}}",
    f"{V1}/state_ids/{{room_id}}?event_id={{event_id}}",
    f"{V1}/event_auth/{{room_id}}/{{event_id}}",
    f"{V1}/backfill/{{room_id}}?v={{event_id}}&limit=10",
    f"{V1}/timestamp_to_event/{{room_id}}?ts=0&dir=f",
)


def ids_of(version: str, pdus: list[Any]) -> list[str]:
    """The ids of events, which keep to the format of their room version."""
    for pdu in pdus:
        # The data has no form for the create events of version 12, whose rooms are named by them.
        if VALIDATOR is not None and (version != "12" or pdu["type"] != "m.room.create"):
            problems = VALIDATOR.check_pdu(pdu, version)
            assert not problems, "\n".join(map(str, problems))
    return [parse_pdu(ROOM_VERSIONS[version], pdu).event_id for pdu in pdus]


@pytest.mark.parametrize("version", ["1", "6", "11", "12"])
async def test_events_are_told_as_they_were_signed(
    server: Homeserver, other: OtherServer, alice: Client, visitor: Visitor, version: str
) -> None:
    room_id = await alice.create_room(preset="public_chat", room_version=version)
    await visitor.member(room_id, "join")
    event_id = await alice.send(room_id, "to all")
    answer = await other.get(f"{V1}/event/{quote(event_id, safe='')}")
    assert answer["origin"] == server.name
    (pdu,) = answer["pdus"]
    assert pdu["content"]["body"] == "to all"
    assert ids_of(version, [pdu]) == [event_id]
    assert check_content_hash(ROOM_VERSIONS[version], pdu)
    keys = (await other.get("/_matrix/key/v2/server"))["verify_keys"]
    known = {server.name: {key_id: VerifyKey(key["key"]) for key_id, key in keys.items()}}
    verify_event_signatures(ROOM_VERSIONS[version], pdu, known)


@pytest.mark.parametrize("version", ["1", "10", "11", "12"])
async def test_what_a_redaction_redacts_stands_where_its_room_version_has_it_alone(
    other: OtherServer, alice: Client, visitor: Visitor, version: str
) -> None:
    room_id = await alice.create_room(preset="public_chat", room_version=version)
    await visitor.member(room_id, "join")
    said = await alice.send(room_id, "rude")
    sent = await alice.send(room_id, {"redacts": said, "reason": "so"}, "m.room.redaction")
    (pdu,) = (await other.get(f"{V1}/event/{quote(sent, safe='')}"))["pdus"]
    places = (pdu.get("redacts"), pdu["content"].get("redacts"))
    assert places == ((said, None) if version in ("1", "10") else (None, said))
    assert pdu["content"]["reason"] == "so"


@pytest.mark.parametrize("version", ["1", "6", "11", "12"])
async def test_state_before_an_event_comes_with_all_that_it_rests_on(
    other: OtherServer, alice: Client, visitor: Visitor, version: str
) -> None:
    room_id = await alice.create_room(preset="public_chat", room_version=version, topic="one")
    await visitor.member(room_id, "join")
    first = {event["event_id"] for event in await alice.get(f"/rooms/{quote(room_id)}/state")}
    second = await alice.set_state(room_id, "m.room.topic", {"topic": "two"})
    await alice.set_state(room_id, "m.room.topic", {"topic": "three"})
    path = f"{quote(room_id)}?event_id={quote(second, safe='')}"
    told = await other.get(f"{V1}/state_ids/{path}")
    assert set(told["pdu_ids"]) == first
    whole = await other.get(f"{V1}/state/{path}")
    assert ids_of(version, whole["pdus"]) == told["pdu_ids"]
    chain = ids_of(version, whole["auth_chain"])
    assert chain == told["auth_chain_ids"]
    for pdu in (*whole["pdus"], *whole["auth_chain"]):
        assert set(parse_pdu(ROOM_VERSIONS[version], pdu).auth_events) <= set(chain)
    behind = await other.get(f"{V1}/event_auth/{quote(room_id)}/{quote(second, safe='')}")
    assert set(ids_of(version, behind["auth_chain"])) <= set(chain)
    assert any(pdu["type"] == "m.room.create" for pdu in behind["auth_chain"])


async def test_history_is_told_backwards_from_where_it_is_asked(
    other: OtherServer, alice: Client, visitor: Visitor
) -> None:
    room_id = await alice.create_room(preset="public_chat", room_version="12")
    await visitor.member(room_id, "join")
    sent = [await alice.send(room_id, str(n)) for n in range(30)]
    path = f"{V1}/backfill/{quote(room_id)}"
    answer = await other.get(path, query={"v": sent[24], "limit": "5"})
    assert ids_of("12", answer["pdus"]) == sent[20:25][::-1]
    everything = await other.get(path, query={"v": sent[-1], "limit": "100000"})
    assert everything["pdus"][-1]["type"] == "m.room.create"
    assert (await other.get(path, query={"v": "$unknown", "limit": "5"}))["pdus"] == []
    await other.call("GET", path, query={"limit": "5"}, expect=400)
    await other.call("GET", path, query={"v": sent[0], "limit": "-1"}, expect=400)


async def test_what_is_missing_ends_where_this_server_came_in(other: OtherServer, alice: Client) -> None:
    """Of the state that the room had then it knows the events, but not what they follow upon."""
    host = Host(other.peer)
    host.open_to(alice.user_id)
    await alice.post(f"/join/{quote(host.room_id)}?via={other.name}")
    last = await alice.send(host.room_id, "last")
    content = {"latest_events": [last], "earliest_events": [], "limit": 9, "min_depth": 0}
    told = await other.post(f"{V1}/get_missing_events/{quote(host.room_id)}", content)
    assert [pdu["type"] for pdu in told["events"]] == ["m.room.member"]


async def test_what_is_soft_failed_here_is_told_to_those_who_were_there(
    server: Homeserver,
    other: OtherServer,
    alice: Client,
    visitor: Visitor,
    internet: Internet,
    http: aiohttp.ClientSession,
) -> None:
    """HARDENING 35 and 36: elsewhere it may be allowed, and is to be had from here as it was signed."""
    joined_only = {"history_visibility": "joined"}
    rule = {"type": "m.room.history_visibility", "state_key": "", "content": joined_only}
    room_id = await alice.create_room(preset="public_chat", initial_state=[rule])
    await visitor.member(room_id, "join")
    await Visitor(server, other, "friend").member(room_id, "join")
    room = await visitor.room(room_id)
    said, _ = visitor.drafted(room, room.head, "m.room.message", text("in time"))
    await alice.post(f"/rooms/{quote(room_id)}/ban", {"user_id": visitor.user_id})
    assert server.app.federation is not None
    assert await server.app.federation.receiver.receive(room, said) is Outcome.SOFT_FAILED
    late = await another(internet, server, http)
    await Visitor(server, late).member(room_id, "join")
    path = f"{V1}/backfill/{quote(room_id)}"
    told = [await each.get(path, query={"v": said.event_id, "limit": "1"}) for each in (other, late)]
    assert [answer["pdus"][0]["content"] for answer in told] == [text("in time"), {}]


async def test_a_gap_is_filled_from_both_of_its_ends(
    other: OtherServer, alice: Client, visitor: Visitor
) -> None:
    room_id = await alice.create_room(preset="public_chat", room_version="12")
    await visitor.member(room_id, "join")
    sent = [await alice.send(room_id, str(n)) for n in range(12)]
    path = f"{V1}/get_missing_events/{quote(room_id)}"
    gap = {"latest_events": [sent[6]], "earliest_events": [sent[2]], "limit": 10}
    assert ids_of("12", (await other.post(path, gap))["events"]) == sent[3:6]
    assert ids_of("12", (await other.post(path, {**gap, "limit": 2}))["events"]) == sent[4:6]
    depth = (await other.get(f"{V1}/event/{quote(sent[5], safe='')}"))["pdus"][0]["depth"]
    assert ids_of("12", (await other.post(path, {**gap, "min_depth": depth}))["events"]) == [sent[5]]
    for wrong in ({}, {**gap, "limit": -1}, {**gap, "latest_events": "all"}):
        await other.call("POST", path, wrong, expect=400)


async def test_both_branches_of_a_fork_are_told(other: OtherServer, alice: Client, visitor: Visitor) -> None:
    room_id = await alice.create_room(preset="public_chat", room_version="12")
    joined = await visitor.member(room_id, "join")
    head = (await visitor.room(room_id)).head
    here = await alice.send(room_id, "here")
    there = (await visitor.fork(room_id, head, "there")).event_id
    merged = await alice.send(room_id, "merged")
    gap = {"latest_events": [merged], "earliest_events": [joined], "limit": 10}
    answer = await other.post(f"{V1}/get_missing_events/{quote(room_id)}", gap)
    assert sorted(ids_of("12", answer["events"])) == sorted([here, there])
    answer = await other.get(f"{V1}/backfill/{quote(room_id)}", query={"v": merged, "limit": "4"})
    told = ids_of("12", answer["pdus"])
    assert told[0] == merged
    assert sorted(told[1:3]) == sorted([here, there])
    assert told[3] == joined


async def test_the_event_nearest_to_a_time_is_named(
    other: OtherServer, alice: Client, visitor: Visitor
) -> None:
    room_id = await alice.create_room(preset="public_chat")
    await visitor.member(room_id, "join")
    last = await alice.send(room_id, "last")
    path = f"{V1}/timestamp_to_event/{quote(room_id)}"
    answer = await other.get(path, query={"ts": str(system_clock() + 1000), "dir": "b"})
    assert answer["event_id"] == last
    await other.call("GET", path, query={"ts": str(system_clock() + 60_000), "dir": "f"}, expect=404)
    await other.call("GET", path, query={"ts": "0", "dir": "x"}, expect=400)


async def test_of_times_after_it_left_a_server_is_told_no_event(
    other: OtherServer, alice: Client, visitor: Visitor
) -> None:
    setting = {"type": "m.room.history_visibility", "content": {"history_visibility": "joined"}}
    room_id = await alice.create_room(preset="public_chat", initial_state=[setting])
    await visitor.member(room_id, "join")
    seen = await alice.send(room_id, "seen")
    path = f"{V1}/timestamp_to_event/{quote(room_id)}"
    query = {"ts": str(system_clock() + 60_000), "dir": "b"}
    assert (await other.get(path, query=query))["event_id"] == seen
    await visitor.member(room_id, "leave")
    await alice.send(room_id, "secret")
    await other.call("GET", path, query=query, expect=404)


async def refused(other: OtherServer, room_id: str, event_id: str) -> None:
    """Nothing is told of this room, or not even that there is one."""
    for path in PATHS:
        filled = path.format(room_id=quote(room_id), event_id=quote(event_id, safe=""))
        assert (await other.call("GET", filled, expect=403)).errcode == "M_FORBIDDEN"
    gap = {"latest_events": [event_id], "earliest_events": []}
    await other.call("POST", f"{V1}/get_missing_events/{quote(room_id)}", gap, expect=403)


async def test_servers_outside_a_room_are_told_nothing_of_it(
    other: OtherServer, alice: Client, visitor: Visitor
) -> None:
    room_id = await alice.create_room(preset="public_chat")
    event_id = await alice.send(room_id, "among us")
    await refused(other, room_id, event_id)
    await refused(other, "!no:such.room", event_id)
    await other.call("GET", f"{V1}/event/{quote(event_id, safe='')}", expect=403)
    await other.call("GET", f"{V1}/event/%24unknown", expect=404)
    await visitor.member(room_id, "join")
    await other.get(f"{V1}/event/{quote(event_id, safe='')}")
    await alice.set_state(room_id, "m.room.server_acl", {"allow": ["*"], "deny": [other.name]})
    await refused(other, room_id, event_id)


async def test_an_event_is_asked_for_in_its_own_room(
    other: OtherServer, alice: Client, visitor: Visitor
) -> None:
    room_id = await alice.create_room(preset="public_chat")
    await visitor.member(room_id, "join")
    elsewhere = await alice.create_room(preset="private_chat")
    secret = await alice.send(elsewhere, "secret")
    for path in PATHS[:3]:
        filled = path.format(room_id=quote(room_id), event_id=quote(secret, safe=""))
        await other.call("GET", filled, expect=404)
    answer = await other.get(f"{V1}/backfill/{quote(room_id)}", query={"v": secret, "limit": "5"})
    assert answer["pdus"] == []
    gap = {"latest_events": [secret], "earliest_events": []}
    assert await other.post(f"{V1}/get_missing_events/{quote(room_id)}", gap) == {"events": []}


async def bodies(other: OtherServer, room_id: str, event_id: str) -> list[str | None]:
    """What the messages up to an event say to the other server."""
    answer = await other.get(f"{V1}/backfill/{quote(room_id)}", query={"v": event_id, "limit": "100"})
    ids_of("12", answer["pdus"])
    return [pdu["content"].get("body") for pdu in reversed(answer["pdus"]) if pdu["type"] == "m.room.message"]


async def test_what_a_server_may_not_see_it_is_told_as_if_redacted(
    other: OtherServer, alice: Client, visitor: Visitor
) -> None:
    room_id = await alice.create_room(preset="public_chat", room_version="12")
    await alice.set_state(room_id, "m.room.history_visibility", {"history_visibility": "joined"})
    before = await alice.send(room_id, "before")
    await visitor.member(room_id, "join")
    last = await alice.send(room_id, "after")
    assert await bodies(other, room_id, last) == [None, "after"]
    (pdu,) = (await other.get(f"{V1}/event/{quote(before, safe='')}"))["pdus"]
    assert pdu["content"] == {}
    assert ids_of("12", [pdu]) == [before]


@pytest.mark.parametrize(("before", "after"), [("joined", "shared"), ("shared", "joined")])
async def test_what_was_said_while_the_history_visibility_changed_is_seen_as_its_sender_knew_it(
    internet: Internet,
    server: Homeserver,
    http: aiohttp.ClientSession,
    alice: Client,
    bob: Client,
    visitor: Visitor,
    before: str,
    after: str,
) -> None:
    """Not as it is for what is said where it arrives."""
    room_id = await alice.create_room(preset="public_chat")
    await visitor.member(room_id, "join")
    await alice.set_state(room_id, "m.room.history_visibility", {"history_visibility": before})
    head = (await visitor.room(room_id)).head
    await alice.set_state(room_id, "m.room.history_visibility", {"history_visibility": after})
    said = await visitor.fork(room_id, head, "on a branch")
    await alice.send(room_id, "merged")
    await bob.join(room_id)
    later = await another(internet, server, http)
    await Visitor(server, later, "later").member(room_id, "join")
    (pdu,) = (await later.get(f"{V1}/event/{quote(said.event_id, safe='')}"))["pdus"]
    assert ("body" in pdu["content"]) is (before == "shared")
    for _ in range(2):
        assert await texts(bob, room_id) == (["on a branch"] if before == "shared" else ["merged"])
        await server.restart()
        bob._base = server.base


async def test_what_was_said_while_somebody_came_in_is_not_for_them_where_only_members_may_see_it(
    internet: Internet,
    server: Homeserver,
    http: aiohttp.ClientSession,
    alice: Client,
    bob: Client,
    visitor: Visitor,
) -> None:
    """Its sender did not know them to be there, though it arrives after they came."""
    room_id = await alice.create_room(preset="public_chat")
    await alice.set_state(room_id, "m.room.history_visibility", {"history_visibility": "joined"})
    await visitor.member(room_id, "join")
    head = (await visitor.room(room_id)).head
    await bob.join(room_id)
    later = await another(internet, server, http)
    await Visitor(server, later, "later").member(room_id, "join")
    federation = server.app.federation
    assert federation is not None
    sliding = Sliding(bob, lists={"all": whole_list()})
    await sliding.poll()
    await bob.sync()
    said: list[Event] = []
    for body in ("on a branch", "further on it"):
        room = await visitor.room(room_id)
        event, head = visitor.drafted(room, head, "m.room.message", text(body))
        assert await federation.receiver.receive(room, event) is Outcome.ACCEPTED
        said.append(event)
    merged = await alice.send(room_id, "merged")
    shown = (await bob.sync())["rooms"]["join"][room_id]
    assert [event["event_id"] for event in shown["timeline"]["events"]] == [merged]
    assert shown["unread_notifications"]["notification_count"] == 1
    notifications = (await bob.get("/notifications"))["notifications"]
    assert [notification["event"]["event_id"] for notification in notifications] == [merged]
    assert messages_in(await sliding.poll(), room_id) == [merged]
    for event in said:
        (pdu,) = (await later.get(f"{V1}/event/{quote(event.event_id, safe='')}"))["pdus"]
        assert "body" not in pdu["content"]
    for _ in range(2):
        assert await texts(alice, room_id) == ["on a branch", "further on it", "merged"]
        assert await texts(bob, room_id) == ["merged"]
        await server.restart()
        alice._base = bob._base = server.base


@pytest.mark.parametrize(
    ("visibility", "told"),
    [
        ("world_readable", ["before", "during", "after"]),
        ("shared", ["before", "during", None]),
        ("invited", [None, "during", None]),
        ("joined", [None, "during", None]),
    ],
)
async def test_history_is_as_visible_to_a_server_as_to_its_users(
    other: OtherServer, alice: Client, visitor: Visitor, visibility: str, told: list[str | None]
) -> None:
    room_id = await alice.create_room(preset="public_chat", room_version="12")
    await alice.set_state(room_id, "m.room.history_visibility", {"history_visibility": visibility})
    first = await alice.send(room_id, "before")
    await visitor.member(room_id, "join")
    await alice.send(room_id, "during")
    await visitor.member(room_id, "leave")
    last = await alice.send(room_id, "after")
    assert await bodies(other, room_id, last) == told
    end = await alice.send(room_id, "end")
    gap = {"latest_events": [end], "earliest_events": [first], "limit": 20}
    answer = await other.post(f"{V1}/get_missing_events/{quote(room_id)}", gap)
    messages = [pdu for pdu in answer["events"] if pdu["type"] == "m.room.message"]
    assert [pdu["content"].get("body") for pdu in messages] == told[1:]


async def test_a_server_that_left_is_told_what_it_saw(
    other: OtherServer, alice: Client, visitor: Visitor
) -> None:
    room_id = await alice.create_room(preset="public_chat", room_version="12")
    await visitor.member(room_id, "join")
    seen = await alice.send(room_id, "seen")
    await visitor.member(room_id, "leave")
    unseen = await alice.send(room_id, "unseen")
    assert await bodies(other, room_id, unseen) == ["seen", None]
    for path in PATHS[:3]:
        await other.get(path.format(room_id=quote(room_id), event_id=quote(seen, safe="")))
        filled = path.format(room_id=quote(room_id), event_id=quote(unseen, safe=""))
        assert (await other.call("GET", filled, expect=403)).errcode == "M_FORBIDDEN"


async def test_redacted_events_are_told_without_what_was_redacted(
    server: Homeserver, other: OtherServer, alice: Client, visitor: Visitor
) -> None:
    room_id = await alice.create_room(preset="public_chat", room_version="12")
    await visitor.member(room_id, "join")
    event_id = await alice.send(room_id, "regretted")
    assert await bodies(other, room_id, event_id) == ["regretted"]
    redaction = await alice.redact(room_id, event_id)
    for consumer in server.app.ground.consumers:
        await consumer.settled(0)
    assert await bodies(other, room_id, redaction) == [None]


async def test_those_who_had_themselves_erased_are_told_of_as_if_redacted(
    server: Homeserver, other: OtherServer, alice: Client, bob: Client, visitor: Visitor
) -> None:
    room_id = await alice.create_room(preset="public_chat", room_version="12")
    await bob.join(room_id)
    await bob.send(room_id, "to be forgotten")
    await visitor.member(room_id, "join")
    last = await alice.send(room_id, "stays")
    assert await bodies(other, room_id, last) == ["to be forgotten", "stays"]
    await deactivate(server, bob, erase=True)
    assert await bodies(other, room_id, last) == [None, "stays"]
