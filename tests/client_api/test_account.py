"""One's own account: password, deactivation, contact information (spec: "Account management")."""

import asyncio
from typing import Any
from urllib.parse import quote

import pytest

from homeserver.errors import unavailable
from homeserver.protocol.json_types import JsonObject
from homeserver.rooms import membership
from homeserver.rooms.authoring import RoomProposal
from homeserver.rooms.room import Room
from homeserver.rooms.rooms import Rooms
from homeserver.users.sessions import NewSession
from tests.client_api.conftest import Client, Reply, Server

PASSWORD = "correct horse"
NEW = "battery staple"


def proof(user: Client, password: str = PASSWORD) -> JsonObject:
    identifier = {"type": "m.id.user", "user": user.user_id}
    return {"type": "m.login.password", "identifier": identifier, "password": password}


async def log_in(server: Server, user: str, password: str = PASSWORD, expect: int | None = 200) -> Reply:
    identifier = {"type": "m.id.user", "user": user}
    body = {"type": "m.login.password", "identifier": identifier, "password": password}
    return await server.client().call("POST", "/login", body, expect=expect)


async def another_device(server: Server, user: Client) -> Client:
    body = (await log_in(server, user.user_id)).body
    other = server.client()
    other.token, other.user_id, other.device_id = body["access_token"], body["user_id"], body["device_id"]
    return other


async def settle(server: Server) -> None:
    """Wait until what a deactivation entails has been carried out."""
    for consumer in server.app.ground.user_consumers:
        for shard in server.app.users.writers:
            await consumer.settled(shard)


async def deactivate(server: Server, user: Client, **body: Any) -> None:
    answer = await user.post("/account/deactivate", {"auth": proof(user), **body})
    assert answer == {"id_server_unbind_result": "success"}
    await settle(server)


# Password


async def test_new_password_takes_the_place_of_the_old_one(alice: Client, server: Server) -> None:
    assert await alice.post("/account/password", {"new_password": NEW, "auth": proof(alice)}) == {}
    assert (await log_in(server, "alice", expect=403)).errcode == "M_FORBIDDEN"
    await log_in(server, "alice", NEW)


async def test_change_of_password_logs_the_other_devices_out_and_not_this_one(
    alice: Client, server: Server
) -> None:
    other = await another_device(server, alice)
    await alice.post("/account/password", {"new_password": NEW, "auth": proof(alice)})
    assert (await other.call("GET", "/account/whoami", expect=401)).errcode == "M_UNKNOWN_TOKEN"
    assert [d["device_id"] for d in (await alice.get("/devices"))["devices"]] == [alice.device_id]


async def test_other_devices_stay_when_asked_to(alice: Client, server: Server) -> None:
    other = await another_device(server, alice)
    body = {"new_password": NEW, "logout_devices": False, "auth": proof(alice)}
    await alice.post("/account/password", body)
    assert (await other.get("/account/whoami"))["device_id"] == other.device_id


async def test_login_with_the_old_password_does_not_outlive_its_change(
    alice: Client, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody who has the old password logs in while it is being changed because of them."""
    sessions = server.app.people.sessions
    opened = sessions.open

    async def overtaken(*args: Any, **options: Any) -> NewSession:
        await alice.post("/account/password", {"new_password": NEW, "auth": proof(alice)})
        return await opened(*args, **options)

    monkeypatch.setattr(sessions, "open", overtaken)
    assert (await log_in(server, "alice", expect=403)).errcode == "M_FORBIDDEN"
    assert [d["device_id"] for d in (await alice.get("/devices"))["devices"]] == [alice.device_id]


async def test_password_that_cannot_be_hashed_now_logs_nobody_out(
    alice: Client, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def busy(password: str) -> str:
        raise unavailable("Too many logins at once")

    other = await another_device(server, alice)
    monkeypatch.setattr(server.app.people.passwords, "hash", busy)
    body = {"new_password": NEW, "auth": proof(alice)}
    await alice.call("POST", "/account/password", body, expect=503)
    await other.get("/account/whoami")


async def test_of_changes_of_the_password_at_the_same_moment_one_is_made(
    alice: Client, server: Server
) -> None:
    """One of the two may be a thief, who is shut out by the other."""
    for logout in (True, False):
        others = [await another_device(server, alice) for _ in range(4)]
        passwords = [f"new password {n}" for n in range(4)]
        replies = await asyncio.gather(
            *(
                other.call(
                    "POST",
                    "/account/password",
                    {"new_password": password, "logout_devices": logout, "auth": proof(other)},
                    expect=None,
                )
                for other, password in zip(others, passwords, strict=True)
            )
        )
        assert [reply.status for reply in replies].count(200) == 1
        for reply, other, password in zip(replies, others, passwords, strict=True):
            await log_in(server, "alice", password, expect=200 if reply.status == 200 else 403)
            stays = reply.status == 200 or not logout
            await other.call("GET", "/account/whoami", expect=200 if stays else 401)
        await server.app.people.accounts.set_password(alice.user_id, PASSWORD)


async def test_password_is_not_changed_without_the_old_one(alice: Client, server: Server) -> None:
    body = {"new_password": NEW, "auth": proof(alice, "guess")}
    assert (await alice.call("POST", "/account/password", body, expect=401)).errcode == "M_FORBIDDEN"
    await log_in(server, "alice")


async def test_password_needs_an_access_token(server: Server) -> None:
    reply = await server.client().call("POST", "/account/password", {"new_password": NEW}, expect=401)
    assert reply.errcode == "M_MISSING_TOKEN"


@pytest.mark.parametrize(
    ("password", "errcode"), [("short", "M_WEAK_PASSWORD"), ("x" * 513, "M_INVALID_PARAM")]
)
async def test_password_of_a_wrong_length_changes_nothing(
    alice: Client, server: Server, password: str, errcode: str
) -> None:
    body = {"new_password": password, "auth": proof(alice)}
    assert (await alice.call("POST", "/account/password", body, expect=400)).errcode == errcode
    await log_in(server, "alice")


@pytest.mark.parametrize("medium", ["email", "msisdn"])
async def test_password_cannot_be_reset_by_an_address(server: Server, medium: str) -> None:
    body = {
        "client_secret": "s",
        "email": "a@example.org",
        "send_attempt": 1,
        "country": "GB",
        "phone_number": "1",
    }
    path = f"/account/password/{medium}/requestToken"
    assert (await server.client().call("POST", path, body, expect=400)).errcode == "M_THREEPID_NOT_FOUND"


# Deactivation


async def test_deactivated_account_is_logged_out_everywhere(alice: Client, server: Server) -> None:
    other = await another_device(server, alice)
    await deactivate(server, alice)
    for client in (alice, other):
        assert (await client.call("GET", "/account/whoami", expect=401)).errcode == "M_UNKNOWN_TOKEN"
    assert (await log_in(server, "alice", expect=403)).errcode == "M_USER_DEACTIVATED"


async def test_deactivated_user_leaves_rooms_and_rejects_invites(
    alice: Client, bob: Client, server: Server
) -> None:
    joined = await bob.create_room(preset="public_chat")
    await alice.join(joined)
    invited = await bob.create_room(invite=[alice.user_id])
    await bob.sync()
    await deactivate(server, alice)
    for room_id in (joined, invited):
        member = await bob.get(f"/rooms/{room_id}/state/m.room.member/{alice.user_id}")
        assert member["membership"] == "leave"
    rooms = (await bob.sync())["rooms"]["join"]
    assert set(rooms) == {joined, invited}


@pytest.mark.parametrize("action", ["join", "knock"])
async def test_room_that_is_joined_while_the_account_ends_is_left(
    alice: Client, bob: Client, server: Server, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    room_id = await bob.create_room()
    rule = {"join": "public", "knock": "knock"}[action]
    await bob.set_state(room_id, "m.room.join_rules", {"join_rule": rule})
    post = membership.post

    async def overtaken(*args: Any) -> list[str]:
        monkeypatch.undo()
        await deactivate(server, alice)
        return await post(*args)

    monkeypatch.setattr(membership, "post", overtaken)
    await alice.post(f"/{action}/{quote(room_id)}")
    member = await bob.get(f"/rooms/{room_id}/state/m.room.member/{alice.user_id}")
    assert member["membership"] == "leave"


@pytest.mark.parametrize("upgraded", [False, True])
async def test_room_that_is_made_while_the_account_ends_is_left(
    alice: Client, server: Server, monkeypatch: pytest.MonkeyPatch, upgraded: bool
) -> None:
    old = await alice.create_room()
    made: list[str] = []

    async def overtaken(rooms: Rooms, room: Room, proposal: RoomProposal) -> list[str]:
        monkeypatch.undo()
        made.append(room.room_id)
        await deactivate(server, alice)
        return await rooms.submit(room, proposal)

    monkeypatch.setattr(Rooms, "submit", overtaken)
    if upgraded:
        await alice.call("POST", f"/rooms/{quote(old)}/upgrade", {"new_version": "11"}, expect=403)
    else:
        await alice.post("/createRoom", {"preset": "public_chat"})
    [room_id] = made
    room = await server.app.ground.rooms.get(room_id)
    assert room is not None
    assert room.membership_of(alice.user_id) == "leave"


async def test_deactivation_goes_on_after_a_crash_in_the_middle(
    alice: Client, bob: Client, server: Server
) -> None:
    room_id = await bob.create_room(preset="public_chat")
    await alice.join(room_id)
    interrupted = asyncio.Event()

    async def hang(user_id: str, erase: bool) -> None:
        interrupted.set()
        await asyncio.Event().wait()

    server.app.signing_in.deactivation.on_deactivated.insert(0, hang)
    await alice.post("/account/deactivate", {"auth": proof(alice), "erase": True})
    await interrupted.wait()
    for consumer in server.app.ground.user_consumers:
        for task in asyncio.all_tasks():
            if task.get_name() == f"consumer-{consumer.name}":
                task.cancel()
    await server.restart()
    done: list[tuple[str, bool]] = []

    async def note(user_id: str, erase: bool) -> None:
        done.append((user_id, erase))

    server.app.signing_in.deactivation.on_deactivated.append(note)
    await settle(server)
    assert (alice.user_id, True) in done or await server.app.people.profiles.get(alice.user_id) == {}
    member = await bob.get(f"/rooms/{room_id}/state/m.room.member/{alice.user_id}")
    assert member["membership"] == "leave"


async def test_whoever_keeps_something_is_told_of_devices_and_account(alice: Client, server: Server) -> None:
    told: list[tuple[str, object]] = []

    async def device_gone(user_id: str, device_id: str) -> None:
        told.append((user_id, device_id))

    async def deactivated(user_id: str, erase: bool) -> None:
        told.append((user_id, erase))

    server.app.people.sessions.on_device_gone.append(device_gone)
    server.app.signing_in.deactivation.on_deactivated.append(deactivated)
    await deactivate(server, alice, erase=True)
    assert (alice.user_id, alice.device_id) in told
    assert (alice.user_id, True) in told


async def test_deactivation_without_erasure_keeps_the_profile(
    alice: Client, bob: Client, server: Server
) -> None:
    await alice.put(f"/profile/{alice.user_id}/displayname", {"displayname": "Alice"})
    await deactivate(server, alice)
    assert (await bob.get(f"/profile/{alice.user_id}"))["displayname"] == "Alice"


async def test_erased_account_has_no_profile_and_is_recorded_as_erased(
    alice: Client, bob: Client, server: Server
) -> None:
    await alice.put(f"/profile/{alice.user_id}/displayname", {"displayname": "Alice"})
    await deactivate(server, alice, erase=True)
    assert (await bob.call("GET", f"/profile/{alice.user_id}", expect=404)).errcode == "M_NOT_FOUND"
    account = await server.app.people.accounts.get(alice.user_id)
    assert account is not None
    assert account.erased


async def test_hardening_18_account_data_is_gone_from_the_store(alice: Client, server: Server) -> None:
    secret = "planted-in-account-data"
    room_id = await alice.create_room()
    for path in ("account_data/org.x", f"rooms/{room_id}/account_data/org.x"):
        await alice.put(f"/user/{alice.user_id}/{path}", {"a": secret + "-old"})
        await alice.put(f"/user/{alice.user_id}/{path}", {"a": secret})
    await deactivate(server, alice)
    user = await server.app.users.get(alice.user_id)
    assert not any(datum.content for datum in user.account_data.values())
    left = [
        entry
        for shard in server.app.users.writers
        for entry in await server.app.store.log.read(shard, 0, 1000)
        if secret.encode() in entry.body
    ]
    assert left == []


async def test_deactivation_needs_the_password(alice: Client, server: Server) -> None:
    assert (await alice.call("POST", "/account/deactivate", {}, expect=401)).errcode is None
    reply = await server.client().call("POST", "/account/deactivate", {}, expect=401)
    assert reply.errcode == "M_MISSING_TOKEN"
    await log_in(server, "alice")


# Contact information


async def test_nobody_has_contact_information(alice: Client) -> None:
    assert await alice.get("/account/3pid") == {"threepids": []}
    assert (await alice.get("/capabilities"))["capabilities"]["m.3pid_changes"] == {"enabled": False}


@pytest.mark.parametrize(
    ("path", "body", "status", "errcode"),
    [
        ("/account/3pid", {"three_pid_creds": {}}, 403, "M_THREEPID_AUTH_FAILED"),
        ("/account/3pid/add", {"client_secret": "s", "sid": "1"}, 403, "M_THREEPID_AUTH_FAILED"),
        ("/account/3pid/bind", {"client_secret": "s", "sid": "1"}, 400, "M_SERVER_NOT_TRUSTED"),
        ("/account/3pid/email/requestToken", {}, 400, "M_THREEPID_MEDIUM_NOT_SUPPORTED"),
        ("/account/3pid/msisdn/requestToken", {}, 400, "M_THREEPID_MEDIUM_NOT_SUPPORTED"),
    ],
)
async def test_contact_information_cannot_be_added(
    alice: Client, path: str, body: JsonObject, status: int, errcode: str
) -> None:
    assert (await alice.call("POST", path, body, expect=status)).errcode == errcode


@pytest.mark.parametrize("action", ["delete", "unbind"])
async def test_what_is_not_there_can_be_removed(alice: Client, action: str) -> None:
    body = {"medium": "email", "address": "a@example.org"}
    assert await alice.post(f"/account/3pid/{action}", body) == {"id_server_unbind_result": "no-support"}
    assert (await alice.call("POST", f"/account/3pid/{action}", {}, expect=400)).errcode == "M_MISSING_PARAM"
