"""Users of other servers join, knock and leave by way of this one.

HARDENING 4 and 15: whatever is handed in goes through the gate; a room's rule about servers holds everywhere.
"""

from typing import Any
from urllib.parse import quote

import aiohttp
import pytest

from homeserver.protocol.events import parse_pdu
from homeserver.protocol.room_versions import ROOM_VERSIONS
from homeserver.protocol.signing import SigningKey
from tests.client_api.conftest import Client
from tests.client_api.test_rate_limits import limit
from tests.federation.newcomer import Newcomer, ids_of, signed
from tests.federation.rooms import members
from tests.federation.servers import V1, Homeserver, OtherServer, another
from tests.federation_transport.network import Internet


@pytest.fixture
def carol(other: OtherServer) -> Newcomer:
    return Newcomer(other, "carol")


@pytest.mark.parametrize("version", list(ROOM_VERSIONS))
async def test_a_user_of_another_server_joins(alice: Client, carol: Newcomer, version: str) -> None:
    room_id = await alice.create_room(preset="public_chat", room_version=version, name="Open")
    await alice.sync()
    before = await alice.get(f"/rooms/{quote(room_id)}/state")
    answer = await carol.join(room_id)
    assert not answer["members_omitted"]
    assert answer["servers_in_room"] == [alice.user_id.partition(":")[2]]
    assert ids_of(version, answer["state"]) == {event["event_id"] for event in before}
    known = ids_of(version, [*answer["state"], *answer["auth_chain"]])
    join = parse_pdu(ROOM_VERSIONS[version], answer["event"])
    for pdu in (*answer["state"], *answer["auth_chain"], answer["event"]):
        assert set(parse_pdu(ROOM_VERSIONS[version], pdu).auth_events) <= known
    assert (await members(alice, room_id))[carol.user_id] == "join"
    timeline = (await alice.sync())["rooms"]["join"][room_id]["timeline"]["events"]
    assert [event["event_id"] for event in timeline] == [join.event_id]
    # The room goes on upon the join, as the other server sees as well.
    last = await alice.send(room_id, "welcome")
    path = f"{V1}/event/{quote(last, safe='')}"
    (told,) = (await carol.other.get(path))["pdus"]
    assert list(parse_pdu(ROOM_VERSIONS[version], told).prev_events) == [join.event_id]


@pytest.mark.parametrize("membership", ["join", "leave"])
async def test_an_event_with_numbers_that_are_none_is_bad_json(
    alice: Client, carol: Newcomer, membership: str
) -> None:
    """Spec: room version 6, "Canonical JSON"."""
    room_id = await alice.create_room(preset="public_chat")
    await carol.join(room_id)
    version, event = await carol.event(room_id, membership)
    event["content"]["number"] = 2**53
    reply = await carol.send(room_id, version, event, membership, expect=400)
    assert reply.errcode == "M_BAD_JSON"


async def test_joining_twice_is_joining_once(alice: Client, carol: Newcomer) -> None:
    room_id = await alice.create_room(preset="public_chat")
    version, join = await carol.event(room_id)
    first = (await carol.send(room_id, version, join)).body
    again = (await carol.send(room_id, version, join)).body
    assert ids_of(version, again["state"]) == ids_of(version, first["state"])


async def test_members_may_be_left_out_but_for_those_after_whom_the_room_is_called(
    server: Homeserver, alice: Client, bob: Client, carol: Newcomer
) -> None:
    room_id = await alice.create_room(preset="public_chat", room_version="11")
    for n in range(7):
        await (await server.register(f"user{n}")).join(room_id)
    await alice.leave(room_id)
    nameless = await carol.join(room_id, query={"omit_members": "true"})
    assert nameless["members_omitted"]
    assert nameless["servers_in_room"] == [server.name]
    shown = [pdu["state_key"] for pdu in nameless["state"] if pdu["type"] == "m.room.member"]
    assert len(shown) == 5
    assert not ids_of("11", nameless["state"]) & ids_of("11", nameless["auth_chain"])
    assert alice.user_id in {pdu["sender"] for pdu in nameless["auth_chain"]}
    named = await bob.create_room(preset="public_chat", room_version="11", name="Named")
    answer = await carol.join(named, query={"omit_members": "true"})
    assert not [pdu for pdu in answer["state"] if pdu["type"] == "m.room.member"]


async def test_a_room_that_the_other_server_does_not_understand_says_its_version(
    alice: Client, carol: Newcomer
) -> None:
    room_id = await alice.create_room(preset="public_chat", room_version="11")
    for query in ({}, [("ver", "1"), ("ver", "10")]):
        reply = await carol.make(room_id, query=query, expect=400)
        assert (reply.errcode, reply.body["room_version"]) == ("M_INCOMPATIBLE_ROOM_VERSION", "11")
    assert (await carol.make(room_id, query={"ver": "11"})).body["room_version"] == "11"


async def test_templates_are_made_only_for_what_would_be_allowed(alice: Client, carol: Newcomer) -> None:
    private = await alice.create_room(preset="private_chat", room_version="11")
    public = await alice.create_room(preset="public_chat", room_version="11")
    for membership in ("join", "knock", "leave"):
        assert (await carol.make(private, membership, expect=403)).errcode == "M_FORBIDDEN"
        assert (await carol.make("!nowhere:localhost", membership, expect=404)).errcode == "M_NOT_FOUND"
        wrong = await carol.make(public, membership, user_id=alice.user_id, expect=403)
        assert wrong.errcode == "M_FORBIDDEN"
    await alice.post(f"/rooms/{quote(public)}/ban", {"user_id": carol.user_id})
    assert (await carol.make(public, expect=403)).errcode == "M_FORBIDDEN"


async def test_rooms_that_shut_a_server_out_answer_it_nothing(alice: Client, carol: Newcomer) -> None:
    room_id = await alice.create_room(preset="public_chat", room_version="11")
    version, join = await carol.event(room_id)
    await alice.set_state(room_id, "m.room.server_acl", {"allow": ["*"], "deny": [carol.other.name]})
    for membership in ("join", "knock", "leave"):
        await carol.make(room_id, membership, expect=403)
        await carol.send(room_id, version, join, membership, expect=403)
    assert carol.user_id not in await members(alice, room_id)


async def test_what_is_handed_in_has_to_be_the_join_of_a_user_of_that_server(
    server: Homeserver, alice: Client, carol: Newcomer
) -> None:
    room_id = await alice.create_room(preset="public_chat", room_version="11")
    version, join = await carol.event(room_id)
    name, key = carol.other.name, carol.other.peer.key

    async def refused(pdu: Any, **how: Any) -> None:
        reply = await carol.send(room_id, version, pdu, expect=400, **how)
        assert reply.errcode == "M_INVALID_PARAM", reply.body

    def changed(**changes: Any) -> Any:
        pdu = {key: value for key, value in join.items() if key not in ("hashes", "signatures")}
        return signed(version, pdu, name, key, **changes)

    stranger = SigningKey.from_seed("other", b"s" * 32)
    await refused(signed(version, {**join, "signatures": {}}, name, stranger))
    await refused(signed(version, {**join, "signatures": {}}, server.name, key))
    await refused({**join, "signatures": {}})
    await refused({**join, "signatures": "none"})
    await refused({**join, "depth": join["depth"] + 1})
    await refused(join, event_id="$another")
    await refused(changed(type="m.room.topic"))
    await refused(changed(content={"membership": "leave"}))
    await refused(changed(content={"membership": "ban"}))
    await refused(changed(state_key=alice.user_id))
    await refused(changed(sender=alice.user_id, state_key=alice.user_id))
    await refused(changed(sender=f"@carol:{name}.example", state_key=f"@carol:{name}.example"))
    await refused(changed(room_id="!another:localhost"))
    await refused(changed(prev_events=["$unknown"]))
    await refused(changed(auth_events=["$unknown"]))
    await refused(changed(content={"membership": "join", "displayname": "x" * 70_000}))
    assert carol.user_id not in await members(alice, room_id)
    await carol.send(room_id, version, join)
    assert (await members(alice, room_id))[carol.user_id] == "join"


async def test_nobody_hands_in_what_a_third_server_has_signed(
    internet: Internet, server: Homeserver, http: aiohttp.ClientSession, alice: Client, carol: Newcomer
) -> None:
    """HARDENING 3."""
    room_id = await alice.create_room(preset="public_chat", room_version="11")
    dave = Newcomer(await another(internet, server, http), "dave")
    version, join = await dave.event(room_id)
    assert (await carol.send(room_id, version, join, expect=400)).errcode == "M_INVALID_PARAM"
    assert dave.user_id not in await members(alice, room_id)
    await dave.send(room_id, version, join)


async def test_a_join_that_is_no_longer_allowed_is_refused(alice: Client, carol: Newcomer) -> None:
    room_id = await alice.create_room(preset="public_chat", room_version="11")
    version, join = await carol.event(room_id)
    await alice.set_state(room_id, "m.room.join_rules", {"join_rule": "invite"})
    assert (await carol.send(room_id, version, join, expect=403)).errcode == "M_FORBIDDEN"
    assert carol.user_id not in await members(alice, room_id)


async def test_a_join_made_before_others_happened_is_taken_all_the_same(
    alice: Client, carol: Newcomer
) -> None:
    room_id = await alice.create_room(preset="public_chat", room_version="12")
    version, join = await carol.event(room_id)
    await alice.send(room_id, "meanwhile")
    await alice.set_state(room_id, "m.room.topic", {"topic": "meanwhile"})
    answer = (await carol.send(room_id, version, join)).body
    assert "m.room.topic" not in {pdu["type"] for pdu in answer["state"]}
    assert (await members(alice, room_id))[carol.user_id] == "join"


def restricted_to(*room_ids: str) -> Any:
    return {
        "type": "m.room.join_rules",
        "state_key": "",
        "content": {
            "join_rule": "restricted",
            "allow": [{"type": "m.room_membership", "room_id": room_id} for room_id in room_ids],
        },
    }


@pytest.mark.parametrize("version", ["8", "10", "12"])
async def test_members_of_an_allowed_room_join_in_the_name_of_a_member_here(
    server: Homeserver, alice: Client, carol: Newcomer, version: str
) -> None:
    allowed = await alice.create_room(preset="public_chat", room_version=version)
    room_id = await alice.create_room(room_version=version, initial_state=[restricted_to(allowed)])
    assert (await carol.make(room_id, expect=403)).errcode == "M_FORBIDDEN"
    await carol.join(allowed)
    answer = await carol.join(room_id)
    assert answer["event"]["content"]["join_authorised_via_users_server"] == alice.user_id
    assert set(answer["event"]["signatures"]) == {server.name, carol.other.name}
    assert (await members(alice, room_id))[carol.user_id] == "join"


async def test_a_name_is_not_lent_to_somebody_who_left_the_allowed_room(
    alice: Client, carol: Newcomer
) -> None:
    allowed = await alice.create_room(preset="public_chat")
    room_id = await alice.create_room(initial_state=[restricted_to(allowed)])
    await carol.join(allowed)
    version, join = await carol.event(room_id)
    await alice.post(f"/rooms/{quote(allowed)}/kick", {"user_id": carol.user_id})
    assert (await carol.send(room_id, version, join, expect=403)).errcode == "M_FORBIDDEN"


async def test_it_is_said_when_another_server_has_to_be_asked(
    alice: Client, bob: Client, carol: Newcomer
) -> None:
    unknown = await alice.create_room(initial_state=[restricted_to("!unknown:elsewhere.example")])
    assert (await carol.make(unknown, expect=400)).errcode == "M_UNABLE_TO_AUTHORISE_JOIN"
    allowed = await alice.create_room(preset="public_chat")
    await carol.join(allowed)
    levels = {"users": {alice.user_id: 100}, "invite": 50}
    nobody = await alice.create_room(
        room_version="11",
        initial_state=[restricted_to(allowed)],
        power_level_content_override=levels,
        invite=[bob.user_id],
    )
    await bob.join(nobody)
    await alice.leave(nobody)
    assert (await carol.make(nobody, expect=400)).errcode == "M_UNABLE_TO_GRANT_JOIN"


@pytest.mark.parametrize("version", ["7", "12"])
async def test_a_user_of_another_server_knocks_and_takes_it_back(
    alice: Client, carol: Newcomer, version: str
) -> None:
    rules = {"type": "m.room.join_rules", "state_key": "", "content": {"join_rule": "knock"}}
    room_id = await alice.create_room(room_version=version, initial_state=[rules], name="Knock")
    answer = (await carol.send(room_id, *await carol.event(room_id, "knock"), "knock")).body
    told = {pdu["type"]: pdu for pdu in answer["knock_room_state"]}
    assert told["m.room.name"]["content"] == {"name": "Knock"}
    ids_of(version, answer["knock_room_state"])
    assert (await members(alice, room_id))[carol.user_id] == "knock"
    await carol.send(room_id, *await carol.event(room_id, "leave"), "leave")
    assert (await members(alice, room_id))[carol.user_id] == "leave"


async def test_nobody_comes_and_goes_all_the_time(server: Homeserver, alice: Client, carol: Newcomer) -> None:
    """HARDENING 38: what users here may do is no more for those of other servers."""
    room_id = await alice.create_room(preset="public_chat", room_version="11")
    await limit(server, join=2)
    for _ in range(2):
        await carol.join(room_id)
        await carol.send(room_id, *await carol.event(room_id, "leave"), "leave")
    reply = await carol.send(room_id, *await carol.event(room_id), expect=429)
    assert reply.errcode == "M_LIMIT_EXCEEDED"
    await Newcomer(carol.other, "another").join(room_id)


async def test_a_user_of_another_server_leaves(alice: Client, carol: Newcomer) -> None:
    room_id = await alice.create_room(preset="public_chat", room_version="11")
    await carol.join(room_id)
    await carol.send(room_id, *await carol.event(room_id, "leave"), "leave")
    assert (await members(alice, room_id))[carol.user_id] == "leave"


async def test_rooms_that_nobody_of_this_server_is_in_any_more_are_not_its_to_let_into(
    alice: Client, carol: Newcomer
) -> None:
    room_id = await alice.create_room(preset="public_chat", room_version="11")
    await carol.join(room_id)
    await alice.leave(room_id)
    second = Newcomer(carol.other, "second")
    assert (await second.make(room_id, expect=404)).errcode == "M_NOT_FOUND"
