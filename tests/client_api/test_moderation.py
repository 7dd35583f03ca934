"""Locked and suspended accounts, and the administrators who make them so (spec: "Account moderation")."""

import asyncio
from urllib.parse import quote

import pytest

from homeserver.protocol.json_types import JsonObject
from tests.client_api.conftest import Client, Reply, Server

PASSWORD = "correct horse"
ADMIN = "/_matrix/client/v1/admin"
MODERATION = [("lock", "locked"), ("suspend", "suspended")]


@pytest.fixture
async def root(server: Server) -> Client:
    """An administrator."""
    client = await server.register("root")
    await server.app.people.accounts.update(client.user_id, is_admin=True)
    return client


async def moderate(root: Client, action: str, field: str, user_id: str, on: bool = True) -> None:
    path = f"{ADMIN}/{action}/{quote(user_id)}"
    assert await root.put(path, {field: on}) == {field: on}
    assert await root.get(path) == {field: on}


# Locking


async def test_locked_account_can_do_nothing_but_log_out(alice: Client, root: Client, server: Server) -> None:
    room_id = await alice.create_room()
    await moderate(root, "lock", "locked", alice.user_id)
    for method, path in (
        ("GET", "/sync"),
        ("GET", "/account/whoami"),
        ("GET", f"/rooms/{room_id}/messages?dir=b"),
        ("PUT", f"/rooms/{room_id}/send/m.room.message/1"),
        ("POST", "/account/deactivate"),
        ("GET", "/publicRooms"),
        ("GET", "/devices"),
    ):
        reply = await alice.call(method, path, None if method == "GET" else {}, expect=401)
        assert (reply.errcode, reply.body["soft_logout"]) == ("M_USER_LOCKED", True), path
    assert await alice.post("/logout") == {}
    await moderate(root, "lock", "locked", alice.user_id, False)
    assert (await alice.call("GET", "/account/whoami", expect=401)).errcode == "M_UNKNOWN_TOKEN"


async def test_locked_user_may_log_out_everywhere(alice: Client, root: Client) -> None:
    await moderate(root, "lock", "locked", alice.user_id)
    assert await alice.post("/logout/all") == {}


async def test_unlocked_account_goes_on_with_its_sessions(alice: Client, root: Client) -> None:
    await moderate(root, "lock", "locked", alice.user_id)
    await alice.call("GET", "/account/whoami", expect=401)
    await moderate(root, "lock", "locked", alice.user_id, False)
    assert (await alice.get("/account/whoami"))["device_id"] == alice.device_id


async def test_lock_survives_a_restart(alice: Client, root: Client, server: Server) -> None:
    await moderate(root, "lock", "locked", alice.user_id)
    await server.restart()
    assert (await alice.call("GET", "/account/whoami", expect=401)).errcode == "M_USER_LOCKED"


async def test_waiting_poll_of_an_account_that_is_locked_meanwhile_tells_nothing(
    alice: Client, bob: Client, root: Client
) -> None:
    room_id = await bob.create_room(preset="public_chat")
    await alice.join(room_id)
    await alice.sync()
    poll = asyncio.create_task(
        alice.call("GET", "/sync", query={"timeout": 20_000, "since": alice.next_batch}, expect=None)
    )
    await asyncio.sleep(0.05)
    await moderate(root, "lock", "locked", alice.user_id)
    await bob.send(room_id, "not for alice")
    reply = await asyncio.wait_for(poll, 5)
    assert (reply.status, reply.errcode) == (401, "M_USER_LOCKED")


# Suspension


async def refused(client: Client, method: str, path: str, body: JsonObject | None = None) -> None:
    reply = await client.call(method, path, body or {}, expect=403)
    assert reply.errcode == "M_USER_SUSPENDED", path


async def test_suspended_account_cannot_act_in_rooms(alice: Client, bob: Client, root: Client) -> None:
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    elsewhere = await bob.create_room(preset="public_chat")
    invited = await bob.create_room(invite=[alice.user_id])
    others = await bob.send(room_id, "bob's")
    await moderate(root, "suspend", "suspended", alice.user_id)
    room = f"/rooms/{quote(room_id)}"
    for path in (
        f"/rooms/{quote(elsewhere)}/join",
        f"/join/{quote(elsewhere)}",
        f"/knock/{quote(elsewhere)}",
    ):
        await refused(alice, "POST", path)
    await refused(alice, "POST", f"/rooms/{quote(invited)}/join")
    await refused(alice, "POST", "/createRoom")
    await refused(alice, "POST", f"{room}/invite", {"user_id": "@carol:localhost"})
    await refused(alice, "POST", f"{room}/kick", {"user_id": bob.user_id})
    await refused(alice, "POST", f"{room}/ban", {"user_id": bob.user_id})
    await refused(alice, "PUT", f"{room}/send/m.room.message/1", {"msgtype": "m.text", "body": "x"})
    await refused(alice, "PUT", f"{room}/state/m.room.name", {"name": "x"})
    await refused(alice, "PUT", f"{room}/redact/{quote(others)}/2")
    await refused(alice, "PUT", f"{room}/send/m.room.redaction/3", {"redacts": others})
    await refused(alice, "PUT", f"/profile/{alice.user_id}/displayname", {"displayname": "x"})
    await refused(alice, "DELETE", f"/profile/{alice.user_id}/displayname")
    page = await bob.get(f"{room}/messages", query={"dir": "b", "limit": 10})
    assert page["chunk"][0]["event_id"] == others


async def test_suspended_account_can_read_and_look_after_itself(
    alice: Client, bob: Client, root: Client, server: Server
) -> None:
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    invited = await bob.create_room(invite=[alice.user_id])
    mine = [await alice.send(room_id, "mine"), await alice.send(room_id, "mine too")]
    await moderate(root, "suspend", "suspended", alice.user_id)
    theirs = await bob.send(room_id, "seen")
    events = (await alice.sync())["rooms"]["join"][room_id]["timeline"]["events"]
    assert theirs in [event["event_id"] for event in events]
    await alice.redact(room_id, mine[0])
    await alice.put(f"/rooms/{quote(room_id)}/send/m.room.redaction/r", {"redacts": mine[1]})
    await alice.leave(invited)
    await alice.leave(room_id)
    await alice.put(f"/devices/{alice.device_id}", {"display_name": "mine"})
    await alice.put(f"/user/{alice.user_id}/account_data/org.x", {})
    identifier = {"type": "m.id.user", "user": "alice"}
    proof = {"type": "m.login.password", "identifier": identifier, "password": PASSWORD}
    await server.client().post("/login", proof)
    await alice.post("/account/deactivate", {"auth": proof})


async def test_released_account_can_act_again(alice: Client, root: Client) -> None:
    await moderate(root, "suspend", "suspended", alice.user_id)
    await refused(alice, "POST", "/createRoom")
    await moderate(root, "suspend", "suspended", alice.user_id, False)
    await alice.create_room()


# Administrators


@pytest.mark.parametrize(("action", "field"), MODERATION)
async def test_hardening_31_only_administrators_moderate(
    alice: Client, bob: Client, server: Server, action: str, field: str
) -> None:
    for user_id in (bob.user_id, alice.user_id, "@nobody:localhost", "@bob:elsewhere.org", "bob"):
        path = f"{ADMIN}/{action}/{quote(user_id)}"
        assert (await alice.call("GET", path, expect=403)).errcode == "M_FORBIDDEN"
        assert (await alice.call("PUT", path, {field: True}, expect=403)).errcode == "M_FORBIDDEN"
        assert (await server.client().call("GET", path, expect=401)).errcode == "M_MISSING_TOKEN"
    assert (await bob.get("/account/whoami"))["user_id"] == bob.user_id


@pytest.mark.parametrize(("action", "field"), MODERATION)
async def test_administrators_moderate_neither_themselves_nor_each_other(
    root: Client, alice: Client, server: Server, action: str, field: str
) -> None:
    await server.app.people.accounts.update(alice.user_id, is_admin=True)
    for user_id in (root.user_id, alice.user_id):
        path = f"{ADMIN}/{action}/{quote(user_id)}"
        assert (await root.call("PUT", path, {field: True}, expect=403)).errcode == "M_FORBIDDEN"


@pytest.mark.parametrize(("action", "field"), MODERATION)
async def test_only_accounts_of_this_server_that_are_in_use_are_moderated(
    root: Client, alice: Client, server: Server, action: str, field: str
) -> None:
    async def answer(user_id: str) -> Reply:
        return await root.call("PUT", f"{ADMIN}/{action}/{quote(user_id)}", {field: True}, expect=None)

    assert ((await answer("@x:elsewhere.org")).status, (await answer("@x:elsewhere.org")).errcode) == (
        400,
        "M_INVALID_PARAM",
    )
    assert ((await answer("nonsense")).status, (await answer("nonsense")).errcode) == (400, "M_INVALID_PARAM")
    assert (await answer("@nobody:localhost")).errcode == "M_NOT_FOUND"
    await server.app.signing_in.deactivation.deactivate(alice.user_id, erase=False)
    assert ((await answer(alice.user_id)).status, (await answer(alice.user_id)).errcode) == (
        404,
        "M_NOT_FOUND",
    )


@pytest.mark.parametrize(("action", "field"), MODERATION)
async def test_moderation_says_what_it_wants(root: Client, alice: Client, action: str, field: str) -> None:
    path = f"{ADMIN}/{action}/{quote(alice.user_id)}"
    assert (await root.call("PUT", path, {}, expect=400)).errcode == "M_MISSING_PARAM"
    assert (await root.call("PUT", path, {field: "yes"}, expect=400)).errcode == "M_BAD_JSON"
    assert await root.get(path) == {field: False}


async def test_capability_to_moderate_is_shown_to_administrators_only(root: Client, alice: Client) -> None:
    capabilities = (await root.get("/capabilities"))["capabilities"]
    assert capabilities["m.account_moderation"] == {"lock": True, "suspend": True}
    assert "m.account_moderation" not in (await alice.get("/capabilities"))["capabilities"]


# whois


async def test_whois_tells_of_the_own_devices(alice: Client) -> None:
    await alice.call("GET", "/account/whoami", headers={"User-Agent": "Phone/1.0"})
    answer = await alice.get(f"/admin/whois/{alice.user_id}")
    assert answer["user_id"] == alice.user_id
    connection = answer["devices"][alice.device_id]["sessions"][0]["connections"][0]
    assert connection["ip"] == "127.0.0.1"
    assert connection["user_agent"]
    assert connection["last_seen"] > 1_600_000_000_000


async def test_whois_tells_of_others_to_administrators_only(alice: Client, bob: Client, root: Client) -> None:
    assert (await bob.call("GET", f"/admin/whois/{alice.user_id}", expect=403)).errcode == "M_FORBIDDEN"
    assert (await bob.call("GET", "/admin/whois/@nobody:localhost", expect=403)).errcode == "M_FORBIDDEN"
    assert alice.device_id in (await root.get(f"/admin/whois/{alice.user_id}"))["devices"]
    assert (await root.call("GET", "/admin/whois/@nobody:localhost", expect=404)).errcode == "M_NOT_FOUND"
    assert (await root.call("GET", "/admin/whois/@x:elsewhere.org", expect=400)).errcode == "M_INVALID_PARAM"
