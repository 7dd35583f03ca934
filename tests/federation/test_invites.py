"""Invites and knocks between two servers: users of one of them are outside rooms of the other.

HARDENING 1 and 10: a room named by its create event is shown with it; whatever else comes with an invite, its
user's sync goes on.
"""

import asyncio
from typing import Any
from urllib.parse import quote

import pytest

from homeserver.protocol.events import Event, event_template, load_event
from homeserver.protocol.room_versions import ROOM_VERSIONS
from homeserver.protocol.signing import content_hash, event_id_of, sign_event
from tests.client_api.conftest import Client, Reply
from tests.client_api.test_rate_limits import limit
from tests.federation.rooms import members, state_of
from tests.federation.servers import V1, V2, Homeserver, OtherServer
from tests.federation.test_remote_rooms import join

SLIDING = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"
KNOCK = {"type": "m.room.join_rules", "state_key": "", "content": {"join_rule": "knock"}}


@pytest.fixture
async def dora(second: Homeserver) -> Client:
    return await second.register("dora")


async def sliding(client: Client, pos: str | None = None) -> Any:
    wanted = {"lists": {"all": {"ranges": [[0, 10]], "timeline_limit": 5, "required_state": []}}}
    return await client.post(SLIDING, wanted, query={"pos": pos} if pos else {})


def shown(section: Any, kind: str) -> dict[tuple[str, str], Any]:
    """Stripped state by type and state key."""
    events = section["rooms"][kind]
    (room,) = events.values()
    return {(e["type"], e["state_key"]): e["content"] for e in room[f"{kind}_state"]["events"]}


@pytest.mark.parametrize("version", list(ROOM_VERSIONS))
async def test_a_user_of_another_server_is_invited_and_joins(
    server: Homeserver, alice: Client, dora: Client, version: str
) -> None:
    room_id = await alice.create_room(room_version=version, name="Secret")
    await dora.sync()
    waiting = asyncio.create_task(dora.sync(timeout=10_000))
    await alice.invite(room_id, dora.user_id)
    assert (await members(alice, room_id))[dora.user_id] == "invite"
    state = shown(await waiting, "invite")
    assert state["m.room.name", ""] == {"name": "Secret"}
    assert state["m.room.member", alice.user_id]["membership"] == "join"
    assert state["m.room.member", dora.user_id]["membership"] == "invite"
    assert ("m.room.create", "") in state
    (listed,) = (await sliding(dora))["rooms"].values()
    assert {event["type"] for event in listed["invite_state"]} == {type for type, _ in state}
    await join(dora, room_id)
    assert await state_of(dora, room_id) == await state_of(alice, room_id)
    assert room_id in (await dora.sync())["rooms"]["join"]


async def test_an_invite_is_there_after_a_restart_and_can_be_rejected(
    server: Homeserver, second: Homeserver, alice: Client, dora: Client
) -> None:
    room_id = await alice.create_room(name="Secret")
    await alice.invite(room_id, dora.user_id)
    await second.restart()
    dora._base = second.base
    assert shown(await dora.sync(full=True), "invite")["m.room.name", ""] == {"name": "Secret"}
    position = (await sliding(dora))["pos"]
    await dora.post(f"/rooms/{quote(room_id)}/leave", {"reason": "no"})
    assert (await members(alice, room_id))[dora.user_id] == "leave"
    section = (await dora.sync())["rooms"]["leave"][room_id]
    (own,) = section["state"]["events"]
    assert (own["state_key"], own["content"]["membership"]) == (dora.user_id, "leave")
    left = (await sliding(dora, position))["rooms"][room_id]
    assert left["required_state"][0]["content"]["membership"] == "leave"
    assert "rooms" not in await dora.sync(full=True)
    await second.restart()
    dora._base = second.base
    assert "rooms" not in await dora.sync(full=True)
    await dora.post(f"/rooms/{quote(room_id)}/forget")
    # And again: the room may ask once more.
    await alice.invite(room_id, dora.user_id)
    assert ("m.room.name", "") in shown(await dora.sync(), "invite")


async def test_an_invite_is_rejected_though_its_server_is_gone(
    server: Homeserver, alice: Client, dora: Client
) -> None:
    room_id = await alice.create_room(room_version="2")
    await alice.invite(room_id, dora.user_id)
    await dora.sync()
    await server.stop()
    await dora.leave(room_id)
    assert room_id in (await dora.sync())["rooms"]["leave"]
    assert "rooms" not in await dora.sync(full=True)


async def test_who_wants_no_invites_is_not_invited(server: Homeserver, alice: Client, dora: Client) -> None:
    room_id = await alice.create_room()
    data = f"/user/{quote(dora.user_id)}/account_data/m.invite_permission_config"
    await dora.put(data, {"default_action": "block"})
    path = f"/rooms/{quote(room_id)}/invite"
    reply = await alice.call("POST", path, {"user_id": dora.user_id}, expect=403)
    assert reply.errcode == "M_INVITE_BLOCKED"
    nobody = f"@nobody:{dora.user_id.partition(':')[2]}"
    assert (await alice.call("POST", path, {"user_id": nobody}, expect=403)).errcode == "M_FORBIDDEN"
    await alice.call("POST", path, {"user_id": "@nobody:127.0.0.1"}, expect=502)
    assert dora.user_id not in await members(alice, room_id)


async def test_a_room_goes_on_while_an_invite_is_under_way(
    server: Homeserver, alice: Client, dora: Client
) -> None:
    room_id = await alice.create_room()
    sent = await asyncio.gather(
        alice.invite(room_id, dora.user_id), *(alice.send(room_id, str(n)) for n in range(10))
    )
    assert len(sent) == 11
    assert (await members(alice, room_id))[dora.user_id] == "invite"
    await join(dora, room_id)
    await alice.set_state(room_id, "m.room.topic", {"topic": "on"})
    assert (await members(alice, room_id))[dora.user_id] == "join"


@pytest.mark.parametrize("version", ["7", "12"])
async def test_a_room_of_another_server_is_knocked_on(
    server: Homeserver, alice: Client, dora: Client, version: str
) -> None:
    room_id = await alice.create_room(room_version=version, initial_state=[KNOCK], name="Knock")
    await dora.sync()
    path = f"/knock/{quote(room_id)}?via={server.name}"
    await dora.post(path, {"reason": "please"})
    assert (await members(alice, room_id))[dora.user_id] == "knock"
    state = shown(await dora.sync(), "knock")
    assert state["m.room.name", ""] == {"name": "Knock"}
    assert state["m.room.member", dora.user_id]["reason"] == "please"
    await dora.leave(room_id)
    assert (await members(alice, room_id))[dora.user_id] == "leave"
    assert room_id in (await dora.sync())["rooms"]["leave"]
    await dora.post(path)
    await alice.invite(room_id, dora.user_id)
    assert ("m.room.name", "") in shown(await dora.sync(), "invite")
    await join(dora, room_id)
    assert await state_of(dora, room_id) == await state_of(alice, room_id)


async def test_a_server_that_is_in_the_room_signs_invites_as_well(
    server: Homeserver, second: Homeserver, alice: Client, dora: Client
) -> None:
    ed = await second.register("ed")
    room_id = await alice.create_room(preset="private_chat", name="Secret")
    await alice.invite(room_id, dora.user_id)
    await join(dora, room_id)
    await alice.invite(room_id, ed.user_id)
    async with asyncio.timeout(10):
        while ed.user_id not in await members(dora, room_id):
            await asyncio.sleep(0.05)
    assert shown(await ed.sync(), "invite")["m.room.name", ""] == {"name": "Secret"}
    await join(ed, room_id)
    assert await state_of(ed, room_id) == await state_of(dora, room_id)


async def test_a_new_room_may_have_users_of_other_servers_from_the_start(
    server: Homeserver, alice: Client, dora: Client
) -> None:
    users = ["@away:127.0.0.1", dora.user_id]
    room_id = await alice.create_room(preset="trusted_private_chat", invite=users, is_direct=True)
    state = shown(await dora.sync(), "invite")
    assert state["m.room.member", dora.user_id]["is_direct"]
    await join(dora, room_id)
    await dora.set_state(room_id, "m.room.topic", {"topic": "mine, too"})


@pytest.mark.parametrize("membership", ["invite", "knock"])
async def test_an_invite_is_withdrawn_and_a_knock_denied(
    server: Homeserver, alice: Client, dora: Client, membership: str
) -> None:
    room_id = await alice.create_room(initial_state=[KNOCK])
    if membership == "invite":
        await alice.invite(room_id, dora.user_id)
    else:
        await dora.post(f"/knock/{quote(room_id)}?via={server.name}")
    assert room_id in (await dora.sync())["rooms"][membership]
    waiting = asyncio.create_task(dora.sync(timeout=10_000))
    await alice.post(f"/rooms/{quote(room_id)}/kick", {"user_id": dora.user_id, "reason": "no"})
    (own,) = (await waiting)["rooms"]["leave"][room_id]["state"]["events"]
    assert (own["sender"], own["content"]["reason"]) == (alice.user_id, "no")
    await dora.call("POST", f"/rooms/{quote(room_id)}/join", {}, expect=403)


async def test_an_invite_is_not_ended_by_servers_that_have_no_part_in_it(
    server: Homeserver, second: Homeserver, other: OtherServer, alice: Client, dora: Client
) -> None:
    """`other` speaks to the first server only, in which it finds an invite of the second."""
    room_id = await dora.create_room(room_version="11")
    await dora.invite(room_id, alice.user_id)
    stranger = Inviter(other, "11")
    leave = stranger.event("m.room.member", alice.user_id, {"membership": "leave"}, room_id)
    answer = await other.call(
        "PUT",
        f"{V1}/send/1",
        {"origin": other.name, "origin_server_ts": 1, "pdus": [leave.pdu], "edus": []},
    )
    assert "error" in answer.body["pdus"][leave.event_id]
    assert room_id in (await alice.sync(full=True))["rooms"]["invite"]


# Invites of servers that may say anything


class Inviter:
    """A user of another server, who invites people of this one into a room that nobody else has seen."""

    def __init__(self, other: OtherServer, version: str) -> None:
        self.other = other
        self.version = ROOM_VERSIONS[version]
        self.user_id = f"@inviter:{other.name}"
        create = self.event("m.room.create", "", {"room_version": version, "creator": self.user_id}, None)
        self.create = create.pdu
        self.room_id = create.room_id

    def event(self, type: str, state_key: str, content: Any, room_id: str | None, **changes: Any) -> Event:
        if type == "m.room.create" and not self.version.room_id_is_create_hash:
            room_id = f"!room:{self.other.name}"
        fields: Any = {
            "room_id": room_id,
            "type": type,
            "sender": self.user_id,
            "state_key": state_key,
            "content": content,
            "prev_events": [],
            "auth_events": [],
            "depth": 1,
            "origin_server_ts": 1_700_000_000_000,
            **changes,
        }
        pdu = {**event_template(self.version, **fields), "origin": self.other.name}
        if not self.version.event_ids_are_hashes:
            pdu["event_id"] = f"$event:{self.other.name}"
        pdu["hashes"] = {"sha256": content_hash(self.version, pdu)}
        pdu = sign_event(self.version, pdu, self.other.name, self.other.peer.key)
        return load_event(self.version, pdu, event_id_of(self.version, pdu))

    async def invite(self, user_id: str, told: Any, *, api: str = V2, expect: int = 200, **how: Any) -> Reply:
        content = how.pop("content", {"membership": "invite"})
        type, room_id = how.pop("type", "m.room.member"), how.pop("room_id", self.room_id)
        event = self.event(type, user_id, content, room_id, **how.pop("changes", {}))
        body: Any = {"room_version": self.version.identifier, "event": event.pdu, "invite_room_state": told}
        body |= how.pop("body", {})
        if api == V1:
            body = {**event.pdu, "unsigned": {"invite_room_state": told}}
        path = f"{api}/invite/{quote(self.room_id)}/{quote(event.event_id, safe='')}"
        return await self.other.call("PUT", path, body, expect=expect, **how)


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
    await refused(user_id="@alice:elsewhere.example")
    await refused(room_id="!other")
    await refused(body={"room_version": "11"})
    await refused(body={"event": {}})
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
    await alice.call("PUT", f"/rooms/{room_id}/send/m.room.message/1", {"body": "x"}, expect=403)
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
    await another.invite(bob.user_id, [], changes={"depth": 3})


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
