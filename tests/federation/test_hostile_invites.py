"""Invites of servers that may say anything, and what such servers make of the invites of others.

HARDENING 1, 3, 10 and 38: nothing is signed but what it should be, a room named by its create event is shown
with it, whatever comes with an invite its user's sync goes on, and nobody is invited all the time.
"""

import json
import random
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from aiohttp import web

from homeserver.protocol.canonical_json import InvalidJson, check_value
from homeserver.protocol.room_versions import ROOM_VERSIONS
from homeserver.protocol.signing import content_hash, sign_event
from tests.client_api.conftest import Client
from tests.client_api.hostile_values import VALUES
from tests.client_api.test_hardening_invites import looks_around
from tests.client_api.test_rate_limits import limit
from tests.federation.host import Host
from tests.federation.inviter import Inviter
from tests.federation.rooms import state_of
from tests.federation.servers import V1, V2, Homeserver, OtherServer, another
from tests.federation.test_invites import shown, sliding
from tests.federation_transport.network import Internet
from tests.federation_transport.peers import key_of


@pytest.mark.parametrize("api", [V1, V2])
async def test_an_invite_comes_back_signed(
    server: Homeserver, other: OtherServer, alice: Client, api: str
) -> None:
    inviter = Inviter(other, "1")
    answer = (await inviter.invite(alice.user_id, [inviter.create], api=api)).body
    event = (answer if api == V2 else answer[1])["event"]
    assert set(event["signatures"]) == {server.name, other.name}
    assert shown(await alice.sync(), "invite")["m.room.create", ""]["creator"] == inviter.user_id


async def test_only_invites_of_the_own_users_for_users_here_are_signed(
    server: Homeserver, other: OtherServer, alice: Client
) -> None:
    inviter = Inviter(other, "12")
    told = [inviter.create]

    async def refused(**how: Any) -> None:
        reply = await inviter.invite(how.pop("user_id", alice.user_id), told, expect=400, **how)
        assert reply.errcode == "M_INVALID_PARAM", reply.body

    await refused(type="m.room.power_levels")
    await refused(content={"membership": "join"})
    await refused(changes={"sender": alice.user_id})
    await refused(changes={"sender": "@alice:elsewhere.example"})
    await refused(user_id=inviter.user_id)
    gone = await server.register("gone")
    await server.app.people.accounts.update(gone.user_id, deactivated=True)
    for user_id in (f"@nobody:{server.name}", gone.user_id):
        reply = await inviter.invite(user_id, told, expect=403)
        assert reply.errcode == "M_FORBIDDEN"
    await refused(user_id="@alice:elsewhere.example")
    await refused(room_id="!other")
    await refused(body={"room_version": "11"})
    await refused(body={"event": {}})
    event = inviter.event("m.room.member", alice.user_id, {"membership": "invite"}, inviter.room_id).pdu
    number = {**event, "content": {**event["content"], "number": 2**53}}
    assert (
        await inviter.invite(alice.user_id, told, body={"event": number}, expect=400)
    ).errcode == "M_BAD_JSON"
    reply = await inviter.invite(alice.user_id, told, body={"room_version": "none"}, expect=400)
    assert (reply.errcode, reply.body["room_version"]) == ("M_INCOMPATIBLE_ROOM_VERSION", "none")
    nobody = await inviter.invite(f"@nobody:{server.name}", told, expect=403)
    assert nobody.errcode == "M_FORBIDDEN"
    assert "rooms" not in await alice.sync()


async def test_a_room_that_is_named_by_its_create_event_is_shown_with_it(
    other: OtherServer, alice: Client
) -> None:
    inviter, another = Inviter(other, "12"), Inviter(other, "12")
    another.create["content"] = {**another.create["content"], "changed": True}
    name = inviter.event("m.room.name", "", {"name": "Room"}, inviter.room_id).pdu
    forged = {**name, "content": {"name": "Forged"}, "signatures": {other.name: {"ed25519:a_1": "A" * 86}}}
    stripped = {key: name[key] for key in ("type", "state_key", "sender", "content")}
    for told in ([], [name], [another.create], [{**inviter.create, "content": {}}], "none", [stripped]):
        await inviter.invite(alice.user_id, told, expect=400)
    await inviter.invite(alice.user_id, [inviter.create, forged, stripped])
    assert ("m.room.name", "") not in shown(await alice.sync(), "invite")
    await inviter.invite(alice.user_id, [inviter.create, name], changes={"depth": 2})
    assert shown(await alice.sync(), "invite")["m.room.name", ""] == {"name": "Room"}


BAD = (
    1,
    None,
    [],
    {},
    {"type": "m.room.name"},
    {"type": "m.room.name", "state_key": "", "sender": "nobody", "content": {}},
    {"type": "m.room.name", "state_key": 1, "sender": "@a:b", "content": {}},
    {"type": "m.room.name", "state_key": "", "sender": "@a:b", "content": []},
    {"type": "m.room.name", "state_key": "", "sender": "@a:b", "content": {"name": 1.5}},
    {"type": {}, "state_key": "", "sender": "@a:b", "content": {}},
    {"type": "m.room.power_levels", "state_key": "", "sender": "@a:b", "content": {}},
    {"type": "m.room.topic", "state_key": "", "sender": "@a:b", "content": {"topic": "x" * 200_000}},
)


async def test_what_is_wrong_with_what_is_told_is_left_out(
    server: Homeserver, other: OtherServer, alice: Client
) -> None:
    inviter = Inviter(other, "11")
    name = {"type": "m.room.name", "state_key": "", "sender": "@a:b", "content": {"name": "Room"}}
    own = {**name, "type": "m.room.member", "state_key": alice.user_id, "content": {"membership": "join"}}
    await inviter.invite(alice.user_id, [name, own, *BAD, *([name] * 1000)])
    state = shown(await alice.sync(), "invite")
    assert set(state) == {("m.room.name", ""), ("m.room.member", alice.user_id)}
    assert state["m.room.member", alice.user_id] == {"membership": "invite"}
    assert len((await sliding(alice))["rooms"]) == 1
    room_id = quote(inviter.room_id)
    for path in ("state", "members", "joined_members", "messages?dir=b", "aliases"):
        await alice.call("GET", f"/rooms/{room_id}/{path}", expect=403)
    for path, body in {
        "invite": {"user_id": "@a:b"},
        "kick": {"user_id": "@a:b"},
        "read_markers": {},
    }.items():
        await alice.call("POST", f"/rooms/{room_id}/{path}", body, expect=None)
    await alice.call(
        "PUT", f"/rooms/{room_id}/send/m.room.message/1", {"msgtype": "m.text", "body": "x"}, expect=403
    )
    await alice.call("PUT", f"/rooms/{room_id}/redact/%24x/1", {}, expect=404)
    invite = (await server.app.rooms.get(inviter.room_id)).head.state["m.room.member", alice.user_id]  # type: ignore[union-attr]
    await alice.call("PUT", f"/rooms/{room_id}/redact/{quote(invite.event_id)}/2", {}, expect=None)
    await other.call("GET", f"{V1}/make_join/{room_id}/{quote(inviter.user_id)}", expect=404)
    await alice.call("POST", f"/rooms/{room_id}/join", {}, expect=502)
    await alice.leave(inviter.room_id)


async def test_nothing_in_a_room_that_is_known_from_outside_breaks_a_request(
    server: Homeserver, other: OtherServer, alice: Client
) -> None:
    inviter = Inviter(other, "12")
    await inviter.invite(alice.user_id, [inviter.create])
    room, user = quote(inviter.room_id), quote(alice.user_id)
    known = await server.app.rooms.get(inviter.room_id)
    assert known is not None
    invite = quote(known.head.state["m.room.member", alice.user_id].event_id, safe="")
    v1 = "/_matrix/client/v1"
    requests = {
        "GET": (
            *(f"/rooms/{room}/{part}" for part in ("messages?dir=b", "members", "aliases", "initialSync")),
            *(f"/rooms/{room}/{part}/{invite}" for part in ("event", "context")),
            f"/rooms/{room}/state/m.room.member/{user}",
            f"{v1}/room_summary/{room}",
            f"{v1}/rooms/{room}/summary",
            f"{v1}/rooms/{room}/hierarchy",
            f"{v1}/rooms/{room}/threads",
            f"{v1}/rooms/{room}/relations/{invite}",
            f"{v1}/rooms/{room}/timestamp_to_event?ts=0&dir=f",
            "/initialSync",
            "/notifications",
            f"/events?room_id={room}&timeout=0",
            f"/directory/list/room/{room}",
        ),
        "PUT": (
            f"/rooms/{room}/typing/{user}",
            f"/rooms/{room}/redact/{invite}/1",
            f"/rooms/{room}/state/m.room.topic/",
            f"/rooms/{room}/state/m.room.member/{user}",
            f"/rooms/{room}/send/m.room.message/2",
            f"/directory/list/room/{room}",
            f"/user/{user}/rooms/{room}/tags/m.favourite",
        ),
        "POST": (
            *(
                f"/rooms/{room}/{part}"
                for part in ("read_markers", "upgrade", "kick", "ban", "unban", "invite")
            ),
            f"/rooms/{room}/receipt/m.read/{invite}",
            f"/rooms/{room}/report",
            f"/rooms/{room}/report/{invite}",
        ),
    }
    body = {"user_id": "@a:b", "membership": "join", "typing": True, "new_version": "12", "reason": "x"}
    for method, paths in requests.items():
        for path in paths:
            reply = await alice.call(method, path, None if method == "GET" else body, expect=None)
            assert reply.status != 500, (method, path, reply.body)
    assert inviter.room_id in (await alice.sync(full=True))["rooms"]["invite"]


async def test_invites_come_no_faster_than_people_make_them(
    server: Homeserver, other: OtherServer, alice: Client, bob: Client
) -> None:
    """HARDENING 38: per inviter, and per user who is invited by whomever."""
    await limit(server, invite=2)
    inviter, another = Inviter(other, "11"), Inviter(other, "11")
    another.user_id = f"@another:{other.name}"
    for depth in (1, 2):
        await inviter.invite(alice.user_id, [], changes={"depth": depth})
    for who in (inviter, another):
        reply = await who.invite(alice.user_id, [], changes={"depth": 3}, expect=429)
        assert reply.errcode == "M_LIMIT_EXCEEDED"
    # The one has used up what it had, the other has not.
    assert (await inviter.invite(bob.user_id, [], expect=429)).errcode == "M_LIMIT_EXCEEDED"
    await another.invite(bob.user_id, [], changes={"depth": 3})


async def test_what_comes_too_fast_is_not_looked_at_closely(
    server: Homeserver, other: OtherServer, alice: Client
) -> None:
    """HARDENING 38: a signature by a key that is not known would have to be asked for."""
    await limit(server, invite=1)
    inviter = Inviter(other, "11")
    await inviter.invite(alice.user_id, [])
    asked = other.peer.asked
    other.peer.key = key_of(other.name, "a_2")
    event = inviter.event("m.room.member", alice.user_id, {"membership": "invite"}, inviter.room_id, depth=2)
    body = {"room_version": "11", "event": event.pdu, "invite_room_state": []}
    path = f"{V2}/invite/{quote(inviter.room_id)}/{quote(event.event_id, safe='')}"
    reply = await other.call("PUT", path, body, key=key_of(other.name), expect=429)
    assert reply.errcode == "M_LIMIT_EXCEEDED"
    assert other.peer.asked == asked


async def test_an_invite_of_a_third_servers_user_is_not_agreed_to(
    internet: Internet, server: Homeserver, http: aiohttp.ClientSession, other: OtherServer, alice: Client
) -> None:
    """HARDENING 3: that server has signed it, for somebody else."""
    third = Inviter(await another(internet, server, http), "11")
    event = third.event("m.room.member", alice.user_id, {"membership": "invite"}, third.room_id)
    body = {"room_version": "11", "event": event.pdu, "invite_room_state": []}
    path = f"{V2}/invite/{quote(third.room_id)}/{quote(event.event_id, safe='')}"
    assert (await other.call("PUT", path, body, expect=400)).errcode == "M_INVALID_PARAM"
    assert "rooms" not in await alice.sync()
    await third.other.call("PUT", path, body)


RETURNED: dict[str, Callable[[Any], Any]] = {
    "another user's": lambda event: {**event, "state_key": "@somebody:example.org"},
    "of another type": lambda event: {**event, "type": "m.room.power_levels", "content": {"users": {}}},
    "with more in it": lambda event: {**event, "content": {**event["content"], "reason": "none"}},
    "of another room": lambda event: {**event, "room_id": "!another:example.org"},
}


@pytest.mark.parametrize("change", RETURNED.values(), ids=RETURNED)
async def test_of_an_invite_that_comes_back_only_the_signature_is_taken(
    other: OtherServer, alice: Client, change: Callable[[Any], Any]
) -> None:
    """HARDENING 3: what was invited to is what this server said."""
    room_id = await alice.create_room(room_version="11")
    guest = f"@guest:{other.name}"

    async def agree(request: web.BaseRequest) -> web.Response:
        event = json.loads(await request.read())["event"]
        signed = sign_event(ROOM_VERSIONS["11"], event, other.name, other.peer.key)
        changed = {**change(event), "signatures": {}}
        changed["hashes"] = {"sha256": content_hash(ROOM_VERSIONS["11"], changed)}
        changed = sign_event(ROOM_VERSIONS["11"], changed, other.name, other.peer.key)
        return web.json_response({"event": {**changed, "signatures": signed["signatures"]}})

    other.peer.site.below[f"{V2}/invite/"] = agree
    before = await state_of(alice, room_id)
    await alice.invite(room_id, guest)
    (added,) = {
        key: event for key, event in (await state_of(alice, room_id)).items() if before.get(key) != event
    }
    assert added == ("m.room.member", guest)
    assert await alice.get(f"/rooms/{room_id}/state/m.room.member/{guest}") == {"membership": "invite"}


@pytest.mark.parametrize(
    "signer", ["nobody", "another server", "an unknown key", "the key over something else"]
)
async def test_an_invite_that_its_users_server_did_not_sign_is_not_sent(
    other: OtherServer, alice: Client, signer: str
) -> None:
    """spec: server-server "Inviting to a room": it is sent once both servers have signed it."""
    room_id = await alice.create_room(room_version="11")
    version = ROOM_VERSIONS["11"]

    async def agree(request: web.BaseRequest) -> web.Response:
        event = json.loads(await request.read())["event"]
        own = {
            "nobody": {},
            "another server": event["signatures"],
            "an unknown key": sign_event(version, event, other.name, key_of("x", "x"))["signatures"],
            "the key over something else": sign_event(
                version, {**event, "depth": 99}, other.name, other.peer.key
            )["signatures"],
        }[signer]
        return web.json_response({"event": {**event, "signatures": {other.name: {}, **own}}})

    other.peer.site.below[f"{V2}/invite/"] = agree
    before = await state_of(alice, room_id)
    path = f"/rooms/{quote(room_id)}/invite"
    await alice.call("POST", path, {"user_id": f"@guest:{other.name}"}, expect=502)
    assert await state_of(alice, room_id) == before


async def test_a_second_invite_does_not_change_what_another_user_is_shown(
    other: OtherServer, alice: Client, bob: Client
) -> None:
    inviter = Inviter(other, "11")
    for user, name in ((alice, "First"), (bob, "Second")):
        told = {"type": "m.room.name", "state_key": "", "sender": "@a:b", "content": {"name": name}}
        await inviter.invite(user.user_id, [told])
    for user, name in ((alice, "First"), (bob, "Second")):
        assert shown(await user.sync(full=True), "invite")["m.room.name", ""] == {"name": name}
    assert len((await sliding(alice))["rooms"]) == 1


def fits_an_event(value: Any) -> bool:
    try:
        check_value(value, max_depth=50)
    except InvalidJson:
        return False
    return len(json.dumps(value)) < 5_000


async def test_of_a_room_that_is_knocked_on_only_what_was_signed_in_it_is_shown(
    other: OtherServer, alice: Client
) -> None:
    """spec: server-server PUT /send_knock, `knock_room_state`; a room that is named by its create event."""
    host = Host(other.peer, "12", join_rule="knock")
    host.open_to(alice.user_id, "knock")
    topic = host.event("m.room.topic", "", {"topic": "said by nobody"}).pdu
    another_room = "!" + "x" * 43
    alias = host.event("m.room.canonical_alias", "", {"alias": "#a:b"}, room_id=another_room).pdu
    face = [
        *(event.pdu for event in host.state.values()),
        {**topic, "signatures": {}},
        {"type": "m.room.avatar", "state_key": "", "sender": host.creator, "content": {"url": "mxc://a/b"}},
        alias,
    ]
    host.lies["send_knock"] = lambda answer: answer.update(knock_room_state=face)
    await alice.post(f"/knock/{quote(host.room_id)}?via={host.name}")
    seen = shown(await alice.sync(), "knock")
    types = {type for type, state_key in seen if type != "m.room.member"}
    assert types == {"m.room.create", "m.room.join_rules", "m.room.name"}
    assert seen["m.room.name", ""] == {"name": "Hosted"}


ODD = [value for value in VALUES if fits_an_event(value)]
FACE = {
    "m.room.name": "name",
    "m.room.topic": "topic",
    "m.room.avatar": "url",
    "m.room.canonical_alias": "alias",
    "m.room.encryption": "algorithm",
    "m.room.join_rules": "join_rule",
    "m.room.create": "type",
}


def odd_face(rng: random.Random, inviter: str) -> list[Any]:
    """State that is shown from outside, of which the contents have every wrong type."""
    told = [
        {"type": type, "state_key": "", "sender": inviter, "content": {field: rng.choice(ODD)}}
        for type, field in FACE.items()
    ]
    for number in range(5):
        content = {"membership": rng.choice(["join", *ODD]), "displayname": rng.choice(ODD)}
        user_id = rng.choice([f"@user{number}:example.org", "nobody", "", "@"])
        told.append({"type": "m.room.member", "state_key": user_id, "sender": inviter, "content": content})
    return told


@pytest.mark.parametrize("seed", range(8))
async def test_no_face_of_a_room_breaks_what_is_shown_of_it(
    other: OtherServer, alice: Client, seed: int
) -> None:
    """HARDENING 10."""
    rng = random.Random(seed)
    inviter = Inviter(other, "11")
    content = {"membership": "invite"}
    content |= {name: rng.choice(ODD) for name in ("displayname", "avatar_url", "is_direct", "reason")}
    await inviter.invite(alice.user_id, odd_face(rng, inviter.user_id), content=content)
    await looks_around(alice, inviter.room_id)
    assert inviter.room_id in (await alice.sync(full=True))["rooms"]["invite"]


@pytest.mark.parametrize("seed", range(4))
async def test_no_face_of_a_room_breaks_what_is_shown_to_those_who_knock(
    other: OtherServer, alice: Client, seed: int
) -> None:
    """HARDENING 10."""
    rng = random.Random(seed)
    host = Host(other.peer, join_rule="knock")
    host.open_to(alice.user_id, "knock")
    face = [*odd_face(rng, host.creator), *ODD]
    host.lies["send_knock"] = lambda answer: answer.update(knock_room_state=face)
    await alice.post(f"/knock/{quote(host.room_id)}?via={host.name}")
    await looks_around(alice, host.room_id)
    assert host.room_id in (await alice.sync(full=True))["rooms"]["knock"]
