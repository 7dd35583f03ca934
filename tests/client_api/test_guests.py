"""Guests (spec: client-server "Guest Access")."""

from typing import Any

import msgspec
import pytest

from tests.client_api.conftest import Client, Server

PASSWORD = "correct horse"


async def guest_of(server: Server, **body: Any) -> Client:
    client = server.client()
    answer = await client.post("/register", body, query={"kind": "guest"})
    client.token, client.user_id, client.device_id = (
        answer["access_token"],
        answer["user_id"],
        answer["device_id"],
    )
    return client


@pytest.fixture
async def guest(server: Server) -> Client:
    return await guest_of(server)


async def room_for_guests(host: Client, access: str = "can_join") -> str:
    state = [{"type": "m.room.guest_access", "content": {"guest_access": access}}]
    return await host.create_room(preset="public_chat", initial_state=state)


async def membership(host: Client, room_id: str, user: Client) -> str:
    member: str = (await host.get(f"/rooms/{room_id}/state/m.room.member/{user.user_id}"))["membership"]
    return member


async def test_guest_gets_an_account_without_any_stage(server: Server) -> None:
    guest = await guest_of(
        server, initial_device_display_name="kiosk", device_id="IGNORED", username="ignored"
    )
    assert guest.device_id != "IGNORED"
    assert (await guest.get("/account/whoami"))["is_guest"] is True
    assert (await guest.get("/devices"))["devices"][0]["display_name"] == "kiosk"
    assert guest.user_id != (await guest_of(server)).user_id


async def test_guests_can_be_kept_out(server: Server) -> None:
    registration = msgspec.structs.replace(server.config.registration, guests=False)
    await server.restart(msgspec.structs.replace(server.config, registration=registration))
    reply = await server.client().call("POST", "/register", {}, query={"kind": "guest"}, expect=403)
    assert reply.errcode == "M_GUEST_ACCESS_FORBIDDEN"


async def test_guest_may_not_do_what_is_for_users(guest: Client) -> None:
    for method, path in (
        ("POST", "/createRoom"),
        ("GET", "/joined_rooms"),
        ("POST", "/account/password"),
        ("POST", "/account/deactivate"),
        ("DELETE", f"/devices/{guest.device_id}"),
        ("GET", "/account/3pid"),
        ("POST", f"/user/{guest.user_id}/openid/request_token"),
        ("POST", "/_matrix/client/v1/login/get_token"),
    ):
        reply = await guest.call(method, path, None if method == "GET" else {}, expect=403)
        assert reply.errcode == "M_GUEST_ACCESS_FORBIDDEN", path


async def test_guest_takes_part_in_a_room_that_lets_guests_in(guest: Client, alice: Client) -> None:
    room_id = await room_for_guests(alice)
    await guest.join(room_id)
    event_id = await guest.send(room_id, "hello")
    events = (await guest.sync())["rooms"]["join"][room_id]["timeline"]["events"]
    assert event_id in [event["event_id"] for event in events]
    for path in ("messages?dir=b", "state", "members", f"event/{event_id}", f"context/{event_id}"):
        await guest.get(f"/rooms/{room_id}/{path}")
    await guest.leave(room_id)
    assert await membership(alice, room_id, guest) == "leave"


@pytest.mark.parametrize("access", ["forbidden", None])
async def test_guest_joins_no_room_that_does_not_let_guests_in(
    guest: Client, alice: Client, access: str | None
) -> None:
    room_id = await (room_for_guests(alice, access) if access else alice.create_room(preset="public_chat"))
    for path in (f"/rooms/{room_id}/join", f"/join/{room_id}"):
        reply = await guest.call("POST", path, {}, expect=403)
        assert reply.errcode == "M_GUEST_ACCESS_FORBIDDEN"
    await alice.invite(room_id, guest.user_id)
    await guest.call("POST", f"/rooms/{room_id}/join", {}, expect=403)


async def test_guests_leave_when_a_room_closes_to_them(
    guest: Client, alice: Client, bob: Client, server: Server
) -> None:
    room_id = await room_for_guests(alice)
    await guest.join(room_id)
    await bob.join(room_id)
    await alice.set_state(room_id, "m.room.guest_access", {"guest_access": "forbidden"})
    for consumer in server.app.ground.consumers:
        for shard in server.app.rooms.writers:
            await consumer.settled(shard)
    assert await membership(alice, room_id, guest) == "leave"
    assert await membership(alice, room_id, bob) == "join"


async def test_guest_has_a_display_name_and_nothing_else(guest: Client) -> None:
    path = f"/profile/{guest.user_id}"
    await guest.put(f"{path}/displayname", {"displayname": "Visitor"})
    assert (await guest.get(path))["displayname"] == "Visitor"
    reply = await guest.call("PUT", f"{path}/avatar_url", {"avatar_url": "mxc://localhost/x"}, expect=403)
    assert reply.errcode == "M_GUEST_ACCESS_FORBIDDEN"
    await guest.delete(f"{path}/displayname")
    fields = (await guest.get("/capabilities"))["capabilities"]["m.profile_fields"]
    assert fields == {"enabled": True, "allowed": ["displayname"]}


# Becoming a user


async def upgrade(server: Server, username: str, token: str | None, expect: int | None = 200) -> Any:
    body = {
        "username": username,
        "password": PASSWORD,
        "guest_access_token": token,
        "auth": {"type": "m.login.dummy"},
    }
    return await server.client().call("POST", "/register", body, expect=expect)


async def test_guest_becomes_a_user_and_keeps_the_rooms(guest: Client, alice: Client, server: Server) -> None:
    room_id = await room_for_guests(alice)
    await guest.join(room_id)
    name = guest.user_id[1:].partition(":")[0]
    answer = (await upgrade(server, name, guest.token)).body
    assert answer["user_id"] == guest.user_id
    user = server.client()
    user.token = answer["access_token"]
    assert (await user.get("/account/whoami"))["is_guest"] is False
    assert (await user.get("/joined_rooms"))["joined_rooms"] == [room_id]
    assert (await guest.get("/account/whoami"))["is_guest"] is False
    login = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": guest.user_id},
        "password": PASSWORD,
    }
    await server.client().post("/login", login)


async def test_nobody_else_takes_a_guests_account(guest: Client, alice: Client, server: Server) -> None:
    name = guest.user_id[1:].partition(":")[0]
    other = await guest_of(server)
    assert (await upgrade(server, name, None, 400)).errcode == "M_USER_IN_USE"
    assert (await upgrade(server, name, other.token, 403)).errcode == "M_FORBIDDEN"
    assert (await upgrade(server, "alice", guest.token, 403)).errcode == "M_FORBIDDEN"
    assert (await upgrade(server, "alice", alice.token, 403)).errcode == "M_FORBIDDEN"
    assert (await upgrade(server, name, "made up", 401)).errcode == "M_UNKNOWN_TOKEN"
    assert (await guest.get("/account/whoami"))["is_guest"] is True
