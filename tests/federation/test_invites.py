"""Invites and knocks between two servers: users of one of them are outside rooms of the other."""

import asyncio
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp import web

from homeserver.protocol.room_versions import ROOM_VERSIONS
from tests.client_api.conftest import Client, Reply
from tests.federation.guest import Guest
from tests.federation.host import Host
from tests.federation.inviter import Inviter
from tests.federation.newcomer import Newcomer, signed
from tests.federation.rooms import members, state_of
from tests.federation.servers import V1, Homeserver, OtherServer
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


@pytest.mark.parametrize("membership", ["join", "leave"])
async def test_who_is_invited_comes_or_declines_before_their_server_has_answered(
    other: OtherServer, alice: Client, membership: str
) -> None:
    """A program may do that for them."""
    room_id = await alice.create_room(room_version="11")
    newcomer = Newcomer(other, "guest")
    guest = Guest(other, room_id, alice.user_id, "guest")
    ((path, agree),) = other.peer.site.below.items()
    made: list[asyncio.Task[Reply]] = []

    async def be_quick(request: web.BaseRequest) -> web.StreamResponse:
        made.append(asyncio.create_task(newcomer.make(room_id, membership)))
        await asyncio.wait(made, timeout=0.3)
        answer: web.StreamResponse = await agree(request)
        return answer

    other.peer.site.below[path] = be_quick
    await alice.invite(room_id, guest.user_id)
    template = (await made[0]).body["event"]
    pdu = signed("11", template, other.name, other.peer.key)
    await newcomer.send(room_id, "11", pdu, membership)
    assert (await members(alice, room_id))[guest.user_id] == membership


@pytest.mark.parametrize("version", ["1", "2", "3"])
async def test_an_old_server_is_invited_as_it_knows_it(
    other: OtherServer, alice: Client, version: str
) -> None:
    room_id = await alice.create_room(room_version=version)
    guest = Guest(other, room_id, alice.user_id)
    guest.knows_old_invites_only()
    known = version in ("1", "2")
    path = f"/rooms/{quote(room_id)}/invite"
    await alice.call("POST", path, {"user_id": guest.user_id}, expect=200 if known else 502)
    assert (await members(alice, room_id)).get(guest.user_id) == ("invite" if known else None)


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


async def test_an_invite_is_not_ended_by_what_came_before_it(other: OtherServer, alice: Client) -> None:
    """Who is invited as soon as a ban has ended may hear of the end later."""
    inviter = Inviter(other, "11")
    await inviter.invite(alice.user_id, [], changes={"depth": 7})
    unban, kick = (
        inviter.event("m.room.member", alice.user_id, {"membership": "leave"}, inviter.room_id, depth=depth)
        for depth in (6, 8)
    )
    await other.send(unban.pdu)
    for no_end in ({"membership": "join"}, {"membership": "invite"}, {"membership": "knock"}, {}):
        event = inviter.event("m.room.member", alice.user_id, no_end, inviter.room_id, depth=9)
        await other.send(event.pdu)
    assert inviter.room_id in (await alice.sync())["rooms"]["invite"]
    await other.send(kick.pdu)
    assert inviter.room_id in (await alice.sync())["rooms"]["leave"]


async def test_an_invite_is_not_ended_by_what_came_before_it_and_arrives_with_it(
    other: OtherServer, alice: Client
) -> None:
    """Whichever is written first: the end of an earlier invite may be under way when the next one comes."""
    inviter = Inviter(other, "11")
    await inviter.invite(alice.user_id, [], changes={"depth": 1})
    for depth in range(2, 22, 2):
        kick = inviter.event(
            "m.room.member", alice.user_id, {"membership": "leave"}, inviter.room_id, depth=depth
        )
        again = inviter.invite(alice.user_id, [], changes={"depth": depth + 1})
        await asyncio.gather(again, other.send(kick.pdu))
        assert inviter.room_id in (await alice.sync(full=True))["rooms"]["invite"]


@pytest.mark.parametrize("membership", ["knock", "leave"])
async def test_who_is_invited_while_a_knock_or_a_rejection_is_answered_is_invited(
    other: OtherServer, alice: Client, membership: str
) -> None:
    """The other server has taken it, and somebody there is quick, maybe by a bot."""
    host = Host(other.peer, join_rule="knock")
    inviter = Inviter(other, "11")
    inviter.room_id = host.room_id
    host.open_to(alice.user_id, membership)
    below = other.peer.site.below
    path = next(path for path in below if f"/send_{membership}/" in path)
    answer = below[path]

    async def invite_first(request: web.BaseRequest) -> web.StreamResponse:
        answered = await answer(request)
        await inviter.invite(alice.user_id, [], changes={"depth": 99})
        return answered

    below[path] = invite_first
    if membership == "leave":
        await inviter.invite(alice.user_id, [])
        await alice.leave(host.room_id)
    else:
        await alice.post(f"/knock/{quote(host.room_id)}?via={host.name}")
    assert host.room_id in (await alice.sync(full=True))["rooms"]["invite"]


async def test_a_knock_is_denied_while_it_is_answered(other: OtherServer, alice: Client) -> None:
    """Somebody there is quick, maybe by a bot."""
    host = Host(other.peer, join_rule="knock")
    host.open_to(alice.user_id, "knock")
    below = other.peer.site.below
    path = next(path for path in below if "/send_knock/" in path)
    answer = below[path]
    denied: list[asyncio.Task[Reply]] = []

    async def deny_first(request: web.BaseRequest) -> web.StreamResponse:
        answered = await answer(request)
        host.let_in(host.received[0])
        kick = host.send("m.room.member", alice.user_id, {"membership": "leave"})
        denied.append(asyncio.create_task(other.send(kick.pdu)))
        await asyncio.wait(denied, timeout=0.3)
        return answered

    below[path] = deny_first
    await alice.post(f"/knock/{quote(host.room_id)}?via={host.name}")
    await denied[0]
    assert "knock" not in (await alice.sync(full=True)).get("rooms", {})
    await alice.call("POST", f"/rooms/{quote(host.room_id)}/leave", {})


async def test_an_invite_is_not_ended_by_servers_that_have_no_part_in_it(
    server: Homeserver, second: Homeserver, other: OtherServer, alice: Client, dora: Client
) -> None:
    """`other` speaks to the first server only, in which it finds an invite of the second."""
    room_id = await dora.create_room(room_version="11")
    await dora.invite(room_id, alice.user_id)
    stranger = Inviter(other, "11")
    leave = stranger.event("m.room.member", alice.user_id, {"membership": "leave"}, room_id, depth=99)
    answer = await other.call(
        "PUT",
        f"{V1}/send/1",
        {"origin": other.name, "origin_server_ts": 1, "pdus": [leave.pdu], "edus": []},
    )
    assert "error" in answer.body["pdus"][leave.event_id]
    assert room_id in (await alice.sync(full=True))["rooms"]["invite"]
