"""Logging in, staying logged in, logging out (spec: client-server "Login", "Refreshing access tokens")."""

import asyncio
import time
from typing import Any

import msgspec
import pytest

from homeserver.config.units import Duration
from homeserver.users.sessions import MAX_ACCESS_TOKENS
from storage.records.accounts import ACCESS_TOKENS
from tests.client_api.conftest import Client, Reply, Server

PASSWORD = "correct horse"


def identified(user: str) -> dict[str, str]:
    return {"type": "m.id.user", "user": user}


async def log_in(server: Server, user: str = "alice", expect: int | None = 200, **body: Any) -> Reply:
    sent = {"type": "m.login.password", "identifier": identified(user), "password": PASSWORD, **body}
    return await server.client().call("POST", "/login", sent, expect=expect)


async def client_of(server: Server, answer: dict[str, Any]) -> Client:
    client = server.client()
    client.token, client.user_id, client.device_id = (
        answer["access_token"],
        answer["user_id"],
        answer["device_id"],
    )
    return client


async def with_auth(server: Server, **changes: Any) -> None:
    auth = msgspec.structs.replace(server.config.auth, **changes)
    await server.restart(msgspec.structs.replace(server.config, auth=auth))


# Ways in


async def test_flows_name_the_ways_in(server: Server) -> None:
    flows = (await server.client().get("/login"))["flows"]
    assert flows == [{"type": "m.login.password"}, {"type": "m.login.token", "get_login_token": True}]
    await with_auth(server, login_tokens=False)
    assert (await server.client().get("/login"))["flows"] == [{"type": "m.login.password"}]


@pytest.mark.parametrize("user", ["alice", "@alice:localhost", "ALICE", "@Alice:localhost"])
async def test_user_is_named_by_localpart_or_id(alice: Client, server: Server, user: str) -> None:
    assert (await log_in(server, user)).body["user_id"] == "@alice:localhost"


async def test_old_way_to_name_the_user_works(alice: Client, server: Server) -> None:
    body = {"type": "m.login.password", "user": "alice", "password": PASSWORD}
    assert (await server.client().post("/login", body))["user_id"] == "@alice:localhost"


async def test_older_clients_are_told_their_server(server: Server) -> None:
    """The Python SDK of the first years reads it from both answers."""
    account = {"username": "alice", "password": PASSWORD, "auth": {"type": "m.login.dummy"}}
    registered = await server.client().post("/register", account)
    assert registered["home_server"] == "localhost"
    assert (await log_in(server)).body["home_server"] == "localhost"


async def test_new_login_is_a_new_device(alice: Client, server: Server) -> None:
    body = (await log_in(server, initial_device_display_name="tablet")).body
    assert body["device_id"] != alice.device_id
    names = {d["device_id"]: d.get("display_name") for d in (await alice.get("/devices"))["devices"]}
    assert names == {alice.device_id: None, body["device_id"]: "tablet"}


async def test_login_to_a_device_that_is_there_ends_its_old_token_and_keeps_its_name(
    alice: Client, server: Server
) -> None:
    first = await client_of(
        server, (await log_in(server, device_id="D", initial_device_display_name="one")).body
    )
    second = await client_of(
        server, (await log_in(server, device_id="D", initial_device_display_name="two")).body
    )
    assert (await first.call("GET", "/account/whoami", expect=401)).errcode == "M_UNKNOWN_TOKEN"
    assert (await second.get("/devices/D"))["display_name"] == "one"


@pytest.mark.parametrize(
    ("identifier", "status"),
    [
        ({"type": "m.id.thirdparty", "medium": "email", "address": "a@example.org"}, 403),
        ({"type": "m.id.phone", "country": "GB", "phone": "1"}, 403),
        ({"medium": "email", "address": "a@example.org"}, 403),
        ({"type": "m.id.unheard"}, 400),
        ({"type": "m.id.user"}, 400),
        ({"type": "m.id.user", "user": 1}, 400),
        ({}, 400),
    ],
)
async def test_other_identifiers_are_refused(server: Server, identifier: Any, status: int) -> None:
    reply = await log_in(server, expect=status, identifier=identifier)
    if status == 403:
        assert reply.errcode == "M_FORBIDDEN"


@pytest.mark.parametrize(
    ("body", "errcode"),
    [
        ({}, "M_MISSING_PARAM"),
        ({"type": "m.login.unheard"}, "M_UNKNOWN"),
        ({"type": "m.login.password", "identifier": identified("alice")}, "M_MISSING_PARAM"),
        ({"type": "m.login.password", "password": "x"}, "M_MISSING_PARAM"),
        ({"type": "m.login.password", "identifier": "alice", "password": "x"}, "M_BAD_JSON"),
        ({"type": "m.login.token"}, "M_MISSING_PARAM"),
        ([], "M_BAD_JSON"),
    ],
)
async def test_malformed_login_is_told_what_is_wrong(server: Server, body: Any, errcode: str) -> None:
    assert (await server.client().call("POST", "/login", body, expect=400)).errcode == errcode


async def test_application_services_are_told_that_they_are_unknown(server: Server, alice: Client) -> None:
    body = {"type": "m.login.application_service", "identifier": identified("_irc_x")}
    assert (await server.client().call("POST", "/login", body, expect=401)).errcode == "M_MISSING_TOKEN"
    assert (await alice.call("POST", "/login", body, expect=401)).errcode == "M_UNKNOWN_TOKEN"


async def test_password_login_can_be_switched_off(alice: Client, server: Server) -> None:
    await with_auth(server, password_login=False)
    assert (await server.client().get("/login"))["flows"] == [
        {"type": "m.login.token", "get_login_token": True}
    ]
    assert (await log_in(server, expect=400)).errcode == "M_UNKNOWN"
    assert (await alice.call("POST", "/account/deactivate", {}, expect=403)).errcode == "M_FORBIDDEN"


@pytest.mark.parametrize("device_id", ["NEW", "OLD"])
async def test_of_logins_to_one_device_at_the_same_moment_one_holds(
    alice: Client, server: Server, device_id: str
) -> None:
    await log_in(server, device_id="OLD")
    replies = await asyncio.gather(
        *(log_in(server, device_id=device_id, refresh_token=True) for _ in range(4))
    )
    living = [
        reply
        for reply in replies
        if (await (await client_of(server, reply.body)).call("GET", "/account/whoami", expect=None)).status
        == 200
    ]
    assert len(living) == 1
    for reply in replies:
        body = {"refresh_token": reply.body["refresh_token"]}
        await server.client().call("POST", "/refresh", body, expect=200 if reply in living else 401)


async def test_hardening_14_device_ids_and_names_are_bounded(alice: Client, server: Server) -> None:
    await log_in(server, device_id="x" * 255)
    for device_id in ("x" * 256, "ä" * 128, ""):
        assert (await log_in(server, device_id=device_id, expect=400)).errcode == "M_INVALID_PARAM"
    body = (await log_in(server, initial_device_display_name="n" * 10_000)).body
    assert len((await alice.get(f"/devices/{body['device_id']}"))["display_name"]) == 100


# HARDENING 29: the doors


async def deactivate(server: Server, user: str) -> None:
    client = await client_of(server, (await log_in(server, user)).body)
    proof = {"type": "m.login.password", "identifier": identified(user), "password": PASSWORD}
    await client.post("/account/deactivate", {"auth": proof})


async def login_token(client: Client) -> str:
    proof = {"type": "m.login.password", "identifier": identified(client.user_id), "password": PASSWORD}
    token: str = (await client.post("/_matrix/client/v1/login/get_token", {"auth": proof}))["login_token"]
    return token


@pytest.mark.parametrize(
    ("state", "status", "errcode"),
    [
        ("active", 200, None),
        ("suspended", 200, None),
        ("locked", 401, "M_USER_LOCKED"),
        ("deactivated", 403, "M_USER_DEACTIVATED"),
    ],
)
async def test_hardening_29_every_door_asks_for_the_state_of_the_account(
    server: Server, state: str, status: int, errcode: str | None
) -> None:
    alice = await server.register("alice")
    with_refresh = (await log_in(server, refresh_token=True)).body
    token = await login_token(alice)
    if state == "deactivated":
        await deactivate(server, "alice")
    elif state != "active":
        await server.app.people.accounts.update(alice.user_id, **{state: True})
    doors = {
        "password": await log_in(server, expect=None),
        "token": await server.client().call(
            "POST", "/login", {"type": "m.login.token", "token": token}, expect=None
        ),
        "refresh": await server.client().call(
            "POST", "/refresh", {"refresh_token": with_refresh["refresh_token"]}, expect=None
        ),
        "access": await alice.call("GET", "/account/whoami", expect=None),
    }
    for door, reply in doors.items():
        ended = state == "deactivated" and door in ("refresh", "access")
        wanted = (401, "M_UNKNOWN_TOKEN") if ended else (status, errcode)
        assert (reply.status, reply.errcode) == wanted, door
        if state == "locked":
            assert reply.body["soft_logout"] is True


async def test_hardening_29_locked_state_is_told_only_to_those_with_the_password(
    alice: Client, server: Server
) -> None:
    await server.app.people.accounts.update(alice.user_id, locked=True)
    assert (await log_in(server, password="wrong", expect=403)).errcode == "M_FORBIDDEN"


@pytest.mark.parametrize("password", ["", "wrong", "correct horse ", "x" * 10_000, "correct horse\0"])
async def test_hardening_29_wrong_and_empty_passwords_open_nothing(
    alice: Client, server: Server, password: str
) -> None:
    assert (await log_in(server, password=password, expect=403)).errcode == "M_FORBIDDEN"


@pytest.mark.parametrize("token", ["", "x", "x" * 5000, " ", "ä", "\0"])
async def test_hardening_29_wrong_and_empty_tokens_open_nothing(server: Server, token: str) -> None:
    login = await server.client().call(
        "POST", "/login", {"type": "m.login.token", "token": token}, expect=None
    )
    assert (login.status, login.errcode) in ((403, "M_FORBIDDEN"), (400, "M_MISSING_PARAM"))
    refresh = await server.client().call("POST", "/refresh", {"refresh_token": token}, expect=401)
    assert refresh.errcode == "M_UNKNOWN_TOKEN"
    assert refresh.body["soft_logout"] is False
    for query in ({"access_token": token}, {}):
        reply = await server.client().call("GET", "/account/whoami", query=query, expect=401)
        assert reply.errcode in ("M_UNKNOWN_TOKEN", "M_MISSING_TOKEN")


async def test_hardening_29_account_without_a_password_has_no_password_that_fits(server: Server) -> None:
    guest = (await server.client().post("/register", {}, query={"kind": "guest"}))["user_id"]
    for password in ("", "None", "null"):
        assert (await log_in(server, guest, password=password, expect=403)).errcode == "M_FORBIDDEN"


async def test_hardening_29_unknown_user_takes_as_long_as_a_known_one(alice: Client, server: Server) -> None:
    # Hashing that can be felt, so that an answer without it stands out.
    await with_auth(server, argon2_memory=65536 * 1024, argon2_time_cost=2)
    await server.app.people.accounts.set_password(alice.user_id, PASSWORD)
    times: dict[str, float] = {}
    for user in ("alice", "nobody"):
        start = time.perf_counter()
        await log_in(server, user, password="wrong", expect=403)
        times[user] = time.perf_counter() - start
    assert times["nobody"] > times["alice"] / 4


# Login tokens


async def test_login_token_logs_one_other_device_in_once(alice: Client, server: Server) -> None:
    body = {"type": "m.login.token", "token": await login_token(alice)}
    replies = await asyncio.gather(
        *(server.client().call("POST", "/login", body, expect=None) for _ in range(4))
    )
    assert sorted(reply.status for reply in replies) == [200, 403, 403, 403]
    granted = next(reply.body for reply in replies if reply.status == 200)
    assert granted["user_id"] == alice.user_id
    assert granted["device_id"] != alice.device_id


async def test_login_token_ends_with_the_session_that_got_it(alice: Client, server: Server) -> None:
    """A lost device that is logged out, or shut out by a new password, has nothing left to come back with."""
    proof = {"type": "m.login.password", "identifier": identified(alice.user_id), "password": PASSWORD}
    for path, change in (
        ("/delete_devices", {"devices": ["LOST"]}),
        ("/account/password", {"new_password": "battery staple"}),
    ):
        lost = await client_of(server, (await log_in(server, device_id="LOST")).body)
        body = {"type": "m.login.token", "token": await login_token(lost)}
        await alice.post(path, {**change, "auth": proof})
        reply = await server.client().call("POST", "/login", body, expect=403)
        assert reply.errcode == "M_FORBIDDEN"


async def test_login_token_opens_nothing_while_the_session_that_got_it_ends(
    alice: Client, server: Server
) -> None:
    lost = await client_of(server, (await log_in(server, device_id="LOST")).body)
    body = {"type": "m.login.token", "token": await login_token(lost)}
    added = server.app.people.sessions.on_device_added

    async def overtaken(user_id: str, device_id: str) -> None:
        added.remove(overtaken)
        await lost.post("/logout")

    added.append(overtaken)
    assert (await server.client().call("POST", "/login", body, expect=403)).errcode == "M_FORBIDDEN"
    devices = (await alice.get("/devices"))["devices"]
    assert [device["device_id"] for device in devices] == [alice.device_id]


async def test_login_token_used_while_all_are_logged_out_opens_nothing_for_long(
    alice: Client, server: Server
) -> None:
    body = {"type": "m.login.token", "token": await login_token(alice)}
    gone = server.app.people.sessions.on_device_gone
    came_in: list[Client] = []

    async def overtaken(user_id: str, device_id: str) -> None:
        gone.remove(overtaken)
        came_in.append(await client_of(server, await server.client().post("/login", body)))

    gone.append(overtaken)
    await alice.post("/logout/all")
    reply = await came_in[0].call("GET", "/account/whoami", expect=401)
    assert reply.errcode == "M_UNKNOWN_TOKEN"


async def test_login_token_always_needs_the_password(alice: Client) -> None:
    path = "/_matrix/client/v1/login/get_token"
    assert (await alice.call("POST", path, {}, expect=401)).body["flows"] == [
        {"stages": ["m.login.password"]}
    ]


async def test_login_token_is_good_for_as_long_as_was_said(alice: Client, server: Server) -> None:
    proof = {"type": "m.login.password", "identifier": identified(alice.user_id), "password": PASSWORD}
    answer = await alice.post("/_matrix/client/v1/login/get_token", {"auth": proof})
    body = {"type": "m.login.token", "token": answer["login_token"]}
    server.clock.ahead = answer["expires_in_ms"] + 1000
    assert (await server.client().call("POST", "/login", body, expect=403)).errcode == "M_FORBIDDEN"
    server.clock.ahead = answer["expires_in_ms"] // 2
    await server.client().post("/login", body)


async def test_login_token_is_no_access_token(alice: Client, server: Server) -> None:
    someone = server.client()
    someone.token = await login_token(alice)
    assert (await someone.call("GET", "/account/whoami", expect=401)).errcode == "M_UNKNOWN_TOKEN"


async def test_login_tokens_can_be_switched_off(alice: Client, server: Server) -> None:
    await with_auth(server, login_tokens=False)
    reply = await alice.call("POST", "/_matrix/client/v1/login/get_token", {}, expect=404)
    assert reply.errcode == "M_UNRECOGNIZED"
    body = {"type": "m.login.token", "token": "x"}
    assert (await server.client().call("POST", "/login", body, expect=400)).errcode == "M_UNKNOWN"
    assert (await alice.get("/capabilities"))["capabilities"]["m.get_login_token"] == {"enabled": False}


# Refreshing


async def refresh(server: Server, token: str, expect: int | None = 200) -> Reply:
    return await server.client().call("POST", "/refresh", {"refresh_token": token}, expect=expect)


async def works(server: Server, access_token: str) -> bool:
    client = server.client()
    client.token = access_token
    return (await client.call("GET", "/account/whoami", expect=None)).status == 200


async def test_refreshed_session_goes_on_as_the_same_device(alice: Client, server: Server) -> None:
    login = (await log_in(server, refresh_token=True)).body
    fresh = (await refresh(server, login["refresh_token"])).body
    assert fresh["expires_in_ms"] == server.config.auth.access_token_lifetime
    client = server.client()
    client.token = fresh["access_token"]
    assert (await client.get("/account/whoami"))["device_id"] == login["device_id"]


async def test_access_token_that_expired_is_a_soft_logout_and_can_be_refreshed(server: Server) -> None:
    await with_auth(server, access_token_lifetime=Duration(150))
    await server.register("alice")
    login = (await log_in(server, refresh_token=True)).body
    client = await client_of(server, login)
    await client.get("/account/whoami")
    await asyncio.sleep(0.2)
    reply = await client.call("GET", "/account/whoami", expect=401)
    assert (reply.errcode, reply.body["soft_logout"]) == ("M_UNKNOWN_TOKEN", True)
    assert await works(server, (await refresh(server, login["refresh_token"])).body["access_token"])


async def test_old_refresh_token_is_good_until_a_new_token_is_used(alice: Client, server: Server) -> None:
    login = (await log_in(server, refresh_token=True)).body
    lost = (await refresh(server, login["refresh_token"])).body
    again = (await refresh(server, login["refresh_token"])).body
    assert again["refresh_token"] != lost["refresh_token"]
    assert await works(server, again["access_token"])
    assert (await refresh(server, login["refresh_token"], 401)).errcode == "M_UNKNOWN_TOKEN"
    assert (await refresh(server, lost["refresh_token"], 401)).errcode == "M_UNKNOWN_TOKEN"


async def test_using_the_new_refresh_token_ends_the_old_one(alice: Client, server: Server) -> None:
    login = (await log_in(server, refresh_token=True)).body
    second = (await refresh(server, login["refresh_token"])).body
    await refresh(server, second["refresh_token"])
    assert (await refresh(server, login["refresh_token"], 401)).errcode == "M_UNKNOWN_TOKEN"


async def test_requests_under_way_with_the_old_access_token_still_pass(alice: Client, server: Server) -> None:
    login = (await log_in(server, refresh_token=True)).body
    fresh = (await refresh(server, login["refresh_token"])).body
    assert await works(server, fresh["access_token"])
    assert await works(server, login["access_token"])


async def test_hardening_14_refreshing_without_end_leaves_few_tokens(alice: Client, server: Server) -> None:
    login = (await log_in(server, refresh_token=True)).body
    tokens = [login["access_token"]]
    for _ in range(12):
        tokens.append((await refresh(server, login["refresh_token"])).body["access_token"])
    alive = [await works(server, token) for token in tokens]
    assert sum(alive) == MAX_ACCESS_TOKENS


async def test_refresh_token_used_twice_at_once_leaves_one_successor(alice: Client, server: Server) -> None:
    login = (await log_in(server, refresh_token=True)).body
    replies = await asyncio.gather(*(refresh(server, login["refresh_token"], None) for _ in range(5)))
    successors = [reply.body["refresh_token"] for reply in replies if reply.status == 200]
    assert successors
    good = [(await refresh(server, token, None)).status for token in successors]
    assert good.count(200) == 1


async def test_refresh_token_ends_after_long_disuse(server: Server) -> None:
    await with_auth(server, refresh_token_lifetime=Duration(100_000))
    await server.register("alice")
    login = (await log_in(server, refresh_token=True)).body
    server.clock.ahead = 90_000
    fresh = (await refresh(server, login["refresh_token"])).body
    server.clock.ahead = 180_000
    fresh = (await refresh(server, fresh["refresh_token"])).body
    server.clock.ahead = 290_000
    reply = await refresh(server, fresh["refresh_token"], 401)
    assert (reply.errcode, reply.body["soft_logout"]) == ("M_UNKNOWN_TOKEN", True)


async def test_access_token_is_no_refresh_token(alice: Client, server: Server) -> None:
    assert alice.token is not None
    assert (await refresh(server, alice.token, 401)).errcode == "M_UNKNOWN_TOKEN"


# Out


async def test_logout_ends_the_session_and_deletes_the_device(alice: Client, server: Server) -> None:
    other = await client_of(server, (await log_in(server, refresh_token=True)).body)
    gone: list[tuple[str, str]] = []

    async def on_device_gone(user_id: str, device_id: str) -> None:
        gone.append((user_id, device_id))

    server.app.people.sessions.on_device_gone.append(on_device_gone)
    assert await other.post("/logout") == {}
    reply = await other.call("GET", "/account/whoami", expect=401)
    assert (reply.errcode, reply.body["soft_logout"]) == ("M_UNKNOWN_TOKEN", False)
    assert [d["device_id"] for d in (await alice.get("/devices"))["devices"]] == [alice.device_id]
    assert gone == [(alice.user_id, other.device_id)]


async def test_logout_ends_the_refresh_token_too(alice: Client, server: Server) -> None:
    login = (await log_in(server, refresh_token=True)).body
    await (await client_of(server, login)).post("/logout")
    assert (await refresh(server, login["refresh_token"], 401)).errcode == "M_UNKNOWN_TOKEN"


async def test_logout_all_ends_every_session_of_this_user(alice: Client, bob: Client, server: Server) -> None:
    others = [await client_of(server, (await log_in(server)).body) for _ in range(2)]
    await alice.post("/logout/all")
    for client in (alice, *others):
        assert (await client.call("GET", "/account/whoami", expect=401)).errcode == "M_UNKNOWN_TOKEN"
    assert (await bob.get("/account/whoami"))["user_id"] == bob.user_id


async def test_login_during_a_logout_leaves_no_session_without_a_device(
    alice: Client, server: Server
) -> None:
    """Before its tokens are made the device goes."""
    sessions = server.app.people.sessions
    is_made, goes_on = asyncio.Event(), asyncio.Event()

    async def hold_on(user_id: str, device_id: str) -> None:
        is_made.set()
        await goes_on.wait()

    sessions.on_device_added.append(hold_on)
    login = asyncio.create_task(log_in(server, expect=403))
    await is_made.wait()
    await alice.post("/logout/all")
    goes_on.set()
    await login
    assert await server.app.store.collection(ACCESS_TOKENS).find("by_device", (alice.user_id,)) == []


async def test_login_to_a_device_that_is_being_deleted_ends_with_it(alice: Client, server: Server) -> None:
    """After its old tokens ended the device gets new ones."""
    await log_in(server, device_id="PHONE")
    logged_in: list[Client] = []

    async def log_in_again(user_id: str, device_id: str) -> None:
        logged_in.append(await client_of(server, (await log_in(server, device_id="PHONE")).body))
        await logged_in[0].get("/account/whoami")

    server.app.people.sessions.on_device_gone.append(log_in_again)
    proof = {"type": "m.login.password", "identifier": identified("alice"), "password": PASSWORD}
    await alice.delete("/devices/PHONE", {"auth": proof})
    assert "PHONE" not in {device["device_id"] for device in (await alice.get("/devices"))["devices"]}
    assert (await logged_in[0].call("GET", "/account/whoami", expect=401)).errcode == "M_UNKNOWN_TOKEN"


async def test_logout_needs_no_body(alice: Client) -> None:
    await alice.call("POST", "/logout", data=b"")


async def test_sessions_survive_a_restart_and_ended_ones_do_not_come_back(
    alice: Client, bob: Client, server: Server
) -> None:
    await bob.post("/logout")
    await server.restart()
    assert await works(server, alice.token or "")
    assert not await works(server, bob.token or "")


async def test_hardening_21_waiting_poll_of_an_ended_session_tells_nothing(
    alice: Client, server: Server
) -> None:
    room_id = await alice.create_room()
    other = await client_of(server, (await log_in(server)).body)
    await other.sync()
    poll = asyncio.create_task(
        other.call("GET", "/sync", query={"timeout": 20_000, "since": other.next_batch}, expect=None)
    )
    await asyncio.sleep(0.05)
    await other.post("/logout")
    await alice.send(room_id, "for those who are still here")
    reply = await asyncio.wait_for(poll, 5)
    assert (reply.status, reply.errcode) == (401, "M_UNKNOWN_TOKEN")


@pytest.mark.parametrize("path", ["/sync", "/events", "/events of a room"])
async def test_waiting_poll_is_told_at_once_that_its_session_has_ended(
    alice: Client, server: Server, path: str
) -> None:
    room_id = await alice.create_room()
    other = await client_of(server, (await log_in(server)).body)
    await other.sync()
    query = {
        "/sync": {"since": other.next_batch},
        "/events": {"from": other.next_batch},
        "/events of a room": {"room_id": room_id},
    }[path]
    poll = asyncio.create_task(
        other.call("GET", path.removesuffix(" of a room"), query={**query, "timeout": 20_000}, expect=None)
    )
    await asyncio.sleep(0.05)
    await alice.post("/logout/all")
    reply = await asyncio.wait_for(poll, 2)
    assert (reply.status, reply.errcode) == (401, "M_UNKNOWN_TOKEN")


async def test_hardening_32_tokens_and_passwords_are_not_readable_in_the_store(server: Server) -> None:
    alice = await server.register("alice")
    login = (await log_in(server, refresh_token=True)).body
    secrets = [
        PASSWORD,
        alice.token or "",
        login["access_token"],
        login["refresh_token"],
        await login_token(alice),
        (await alice.post(f"/user/{alice.user_id}/openid/request_token"))["access_token"],
    ]
    await server.stop()
    stored = server.data.kept()
    assert b"@alice:localhost" in stored
    for secret in secrets:
        assert secret.encode() not in stored


# The page for clients that know no login


async def test_login_page_hands_the_answer_to_the_client(server: Server) -> None:
    reply = await server.client().call("GET", "/_matrix/static/client/login/")
    assert reply.headers["Content-Type"].startswith("text/html")
    assert b"localhost" in reply.body
    assert "frame-ancestors 'none'" in reply.headers["Content-Security-Policy"]
    assert b"/_matrix/static/client/login.js" in reply.body
    script = (await server.client().call("GET", "/_matrix/static/client/login.js")).body
    assert b"window.matrixLogin.onLogin(answer)" in script


async def test_hardening_27_pages_load_nothing_but_their_own_files(server: Server) -> None:
    for name in (
        "__init__.py",
        "..%2f..%2fpyproject.toml",
        "%2e%2e",
        "login.html",
        "style.css%00",
        "x" * 300,
    ):
        reply = await server.client().call("GET", f"/_matrix/static/client/{name}", expect=404)
        assert reply.errcode in ("M_NOT_FOUND", "M_UNRECOGNIZED")
