"""Making accounts (spec: client-server "Account registration", "Token-authenticated registration")."""

import asyncio
import time
from typing import Any

import msgspec
import pytest

from homeserver.config.options import Registration
from homeserver.config.units import Secret
from homeserver.shared_secret import registration_mac
from storage.errors import StoreUnavailable
from tests.client_api.conftest import Client, Reply, Server

PASSWORD = "correct horse"
DUMMY = {"type": "m.login.dummy"}
ADMIN = "/_synapse/admin/v1/register"


async def with_registration(server: Server, **changes: Any) -> None:
    registration = msgspec.structs.replace(server.config.registration, **changes)
    await server.restart(msgspec.structs.replace(server.config, registration=registration))


async def register(client: Client, expect: int | None = 200, **body: Any) -> Reply:
    return await client.call(
        "POST", "/register", {"auth": DUMMY, "password": PASSWORD, **body}, expect=expect
    )


# Open and closed


async def test_registration_is_closed_unless_configured(server: Server) -> None:
    default = Registration()
    await with_registration(server, enabled=default.enabled)
    someone = server.client()
    for body in ({}, {"username": "alice", "password": PASSWORD, "auth": DUMMY}):
        assert (await someone.call("POST", "/register", body, expect=403)).errcode == "M_FORBIDDEN"
    available = await someone.call("GET", "/register/available", query={"username": "alice"}, expect=403)
    assert available.errcode == "M_FORBIDDEN"
    path = "/_matrix/client/v1/register/m.login.registration_token/validity"
    assert (await someone.call("GET", path, query={"token": "x"}, expect=403)).errcode == "M_FORBIDDEN"


async def test_open_registration_asks_for_a_stage_all_the_same(server: Server) -> None:
    body = {"username": "alice", "password": PASSWORD}
    reply = await server.client().call("POST", "/register", body, expect=401)
    assert reply.body["flows"] == [{"stages": ["m.login.dummy"]}]
    assert await server.app.people.accounts.get("@alice:localhost") is None


async def test_new_account_is_logged_in(server: Server) -> None:
    someone = server.client()
    body = (
        await register(someone, username="alice", device_id="PHONE", initial_device_display_name="phone")
    ).body
    assert (body["user_id"], body["device_id"]) == ("@alice:localhost", "PHONE")
    assert "refresh_token" not in body
    someone.token = body["access_token"]
    assert await someone.get("/account/whoami") == {
        "user_id": "@alice:localhost",
        "device_id": "PHONE",
        "is_guest": False,
    }
    assert (await someone.get("/devices"))["devices"][0]["display_name"] == "phone"


async def test_new_account_is_called_by_the_name_in_its_user_id(alice: Client, bob: Client) -> None:
    assert await bob.get(f"/profile/{alice.user_id}") == {"displayname": "alice"}
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    joined = (await bob.get(f"/rooms/{room_id}/joined_members"))["joined"]
    assert joined == {alice.user_id: {"display_name": "alice"}, bob.user_id: {"display_name": "bob"}}


async def test_inhibit_login_makes_an_account_without_a_device(server: Server) -> None:
    body = (await register(server.client(), username="alice", inhibit_login=True)).body
    assert body == {"user_id": "@alice:localhost"}
    alice = server.client()
    login = await alice.post(
        "/login",
        {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": "alice"},
            "password": PASSWORD,
        },
    )
    alice.token = login["access_token"]
    assert [d["device_id"] for d in (await alice.get("/devices"))["devices"]] == [login["device_id"]]


async def test_refresh_token_comes_to_those_who_ask(server: Server) -> None:
    body = (await register(server.client(), username="alice", refresh_token=True)).body
    assert body["refresh_token"]
    assert body["expires_in_ms"] > 0


async def test_name_is_made_up_for_one_who_gives_none(server: Server) -> None:
    first = (await register(server.client())).body["user_id"]
    second = (await register(server.client())).body["user_id"]
    assert first != second
    assert first.endswith(":localhost")


async def test_account_needs_a_password(server: Server) -> None:
    reply = await server.client().call("POST", "/register", {"username": "alice", "auth": DUMMY}, expect=400)
    assert reply.errcode == "M_MISSING_PARAM"
    assert await server.app.people.accounts.get("@alice:localhost") is None


async def test_short_password_is_refused_before_the_stages(server: Server) -> None:
    body = {"username": "alice", "password": "short"}
    assert (await server.client().call("POST", "/register", body, expect=400)).errcode == "M_WEAK_PASSWORD"


# Names


@pytest.mark.parametrize("name", ["", "a b", "ä", "a:b", "@a", "a" * 300, "a\0b", "a\nb", "_?"])
async def test_name_outside_the_grammar_is_refused_before_the_stages(server: Server, name: str) -> None:
    for auth in ({}, {"auth": DUMMY}):
        body = {"username": name, "password": PASSWORD, **auth}
        reply = await server.client().call("POST", "/register", body, expect=400)
        assert reply.errcode == "M_INVALID_USERNAME"
    reply = await server.client().call("GET", "/register/available", query={"username": name}, expect=400)
    assert reply.errcode == "M_INVALID_USERNAME"


async def test_refused_device_id_makes_no_account(server: Server) -> None:
    for device_id in ("", "x" * 256):
        await register(server.client(), 400, username="alice", device_id=device_id)
        await by_secret(server, 400, device_id=device_id)
    for localpart in ("alice", "root"):
        assert await server.app.people.accounts.get(f"@{localpart}:localhost") is None


async def test_upper_case_name_becomes_lower_case(server: Server) -> None:
    assert (await register(server.client(), username="Alice")).body["user_id"] == "@alice:localhost"


async def test_taken_name_is_refused_before_the_stages(alice: Client, server: Server) -> None:
    for name in ("alice", "ALICE"):
        body = {"username": name, "password": PASSWORD}
        assert (await server.client().call("POST", "/register", body, expect=400)).errcode == "M_USER_IN_USE"
        reply = await server.client().call("GET", "/register/available", query={"username": name}, expect=400)
        assert reply.errcode == "M_USER_IN_USE"


async def test_free_name_is_available(server: Server) -> None:
    assert await server.client().get("/register/available", query={"username": "alice"}) == {
        "available": True
    }
    reply = await server.client().call("GET", "/register/available", expect=400)
    assert reply.errcode == "M_MISSING_PARAM"


async def test_of_many_who_want_a_name_at_once_one_gets_it(server: Server) -> None:
    replies = await asyncio.gather(
        *(register(server.client(), None, username="alice", password=f"password {n}") for n in range(8))
    )
    assert sorted(reply.status for reply in replies) == [200] + [400] * 7
    assert {reply.errcode for reply in replies if reply.status == 400} == {"M_USER_IN_USE"}
    made = next(reply.body for reply in replies if reply.status == 200)
    alice = server.client()
    alice.token = made["access_token"]
    assert [d["device_id"] for d in (await alice.get("/devices"))["devices"]] == [made["device_id"]]


async def test_name_of_an_application_service_is_exclusive(server: Server) -> None:
    server.app.people.accounts.reserved.append(lambda user_id: user_id.startswith("@_irc_"))
    reply = await register(server.client(), 400, username="_irc_x")
    assert reply.errcode == "M_EXCLUSIVE"
    reply = await server.client().call("GET", "/register/available", query={"username": "_irc_x"}, expect=400)
    assert reply.errcode == "M_EXCLUSIVE"


async def test_name_of_a_deactivated_account_is_never_given_out_again(alice: Client, server: Server) -> None:
    proof = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": "alice"},
        "password": PASSWORD,
    }
    await alice.post("/account/deactivate", {"auth": proof, "erase": True})
    assert (await register(server.client(), 400, username="alice")).errcode == "M_USER_IN_USE"


async def test_application_services_are_told_that_they_are_unknown(server: Server, alice: Client) -> None:
    body = {"type": "m.login.application_service", "username": "_irc_x"}
    assert (await server.client().call("POST", "/register", body, expect=401)).errcode == "M_MISSING_TOKEN"
    assert (await alice.call("POST", "/register", body, expect=401)).errcode == "M_UNKNOWN_TOKEN"


async def test_unknown_kind_of_account_is_refused(server: Server) -> None:
    reply = await server.client().call("POST", "/register", {}, query={"kind": "robot"}, expect=400)
    assert reply.errcode == "M_INVALID_PARAM"


@pytest.mark.parametrize("medium", ["email", "msisdn"])
async def test_addresses_cannot_be_given_at_registration(server: Server, medium: str) -> None:
    body = {
        "client_secret": "s",
        "email": "a@example.org",
        "send_attempt": 1,
        "country": "GB",
        "phone_number": "1",
    }
    reply = await server.client().call("POST", f"/register/{medium}/requestToken", body, expect=403)
    assert reply.errcode == "M_THREEPID_DENIED"


# Registration tokens


async def token_attempt(server: Server, name: str, token: str) -> Reply:
    auth = {"type": "m.login.registration_token", "token": token}
    body = {"username": name, "password": PASSWORD, "auth": auth}
    return await server.client().call("POST", "/register", body, expect=None)


async def validity(server: Server, token: str) -> bool:
    path = "/_matrix/client/v1/register/m.login.registration_token/validity"
    valid: bool = (await server.client().get(path, query={"token": token}))["valid"]
    return valid


async def test_registration_token_lets_so_many_register(server: Server) -> None:
    await with_registration(server, requires_token=True)
    await server.app.signing_in.registration_tokens.create("twice", uses_allowed=2)
    assert await validity(server, "twice")
    assert (await token_attempt(server, "a", "wrong")).errcode == "M_UNAUTHORIZED"
    assert (await token_attempt(server, "a", "twice")).status == 200
    assert (await token_attempt(server, "b", "twice")).status == 200
    assert not await validity(server, "twice")
    assert (await token_attempt(server, "c", "twice")).status == 401
    assert await server.app.people.accounts.get("@c:localhost") is None


async def test_dummy_stage_is_no_way_round_a_registration_token(server: Server) -> None:
    await with_registration(server, requires_token=True)
    assert (await register(server.client(), 401, username="alice")).errcode == "M_FORBIDDEN"


async def test_registration_token_ends_at_its_time(server: Server) -> None:
    await with_registration(server, requires_token=True)
    await server.app.signing_in.registration_tokens.create("old", expires_ts=int(time.time() * 1000) + 200)
    assert await validity(server, "old")
    await asyncio.sleep(0.25)
    assert not await validity(server, "old")
    assert not await validity(server, "x" * 1000)
    assert (await token_attempt(server, "a", "old")).status == 401


async def test_one_use_of_a_token_makes_one_account_however_many_try(server: Server) -> None:
    await with_registration(server, requires_token=True)
    await server.app.signing_in.registration_tokens.create("once", uses_allowed=1)
    replies = await asyncio.gather(*(token_attempt(server, f"user{n}", "once") for n in range(6)))
    assert sorted(reply.status for reply in replies) == [200] + [401] * 5


async def test_token_is_given_back_when_the_name_is_taken_meanwhile(server: Server) -> None:
    await with_registration(server, requires_token=True)
    await server.app.signing_in.registration_tokens.create("once", uses_allowed=2)
    replies = await asyncio.gather(*(token_attempt(server, "same", "once") for _ in range(2)))
    assert sorted(reply.status for reply in replies) == [200, 400]
    assert await validity(server, "once")


@pytest.mark.parametrize("guest", [False, True])
async def test_registration_that_is_cut_short_can_be_done_again(server: Server, guest: bool) -> None:
    await with_registration(server, requires_token=True, guests=True)
    await server.app.signing_in.registration_tokens.create("once", uses_allowed=1)
    wish: dict[str, Any] = {"username": "carol", "password": PASSWORD}
    if guest:
        answer = await server.client().post("/register", {}, query={"kind": "guest"})
        name = answer["user_id"][1:].partition(":")[0]
        wish |= {"username": name, "guest_access_token": answer["access_token"]}
    failures = ["cut short"]

    async def fails_once(user_id: str, device_id: str) -> None:
        if failures:
            raise StoreUnavailable(failures.pop())

    server.app.people.sessions.on_device_added.append(fails_once)
    auth = {"type": "m.login.registration_token", "token": "once"}
    await server.client().call("POST", "/register", {**wish, "auth": auth}, expect=503)
    assert await validity(server, "once")
    identifier = {"type": "m.id.user", "user": wish["username"]}
    proof = {"type": "m.login.password", "identifier": identifier, "password": PASSWORD}
    await server.client().call("POST", "/login", proof, expect=403)
    again = await server.client().post("/register", {**wish, "auth": auth})
    assert again["user_id"] == f"@{wish['username']}:localhost"
    await server.client().post("/login", proof)


# By the shared secret


async def by_secret(
    server: Server, expect: int | None = 200, *, secret: str = "weft-dev-secret", **body: Any
) -> Reply:
    nonce = (await server.client().get(ADMIN))["nonce"]
    sent = {"nonce": nonce, "username": "root", "password": PASSWORD, "admin": False, **body}
    sent.setdefault(
        "mac",
        registration_mac(
            secret,
            nonce=sent["nonce"],
            username=sent["username"],
            password=sent["password"],
            admin=sent["admin"],
            user_type=sent.get("user_type"),
        ),
    )
    return await server.client().call("POST", ADMIN, sent, expect=expect)


async def test_shared_secret_makes_an_administrator_where_registration_is_closed(server: Server) -> None:
    await with_registration(server, enabled=False)
    body = (await by_secret(server, admin=True, displayname="Root")).body
    assert body["user_id"] == "@root:localhost"
    assert body["home_server"] == "localhost"
    root = server.client()
    root.token = body["access_token"]
    assert "m.account_moderation" in (await root.get("/capabilities"))["capabilities"]
    assert (await root.get("/profile/@root:localhost"))["displayname"] == "Root"


async def test_shared_secret_without_admin_makes_an_ordinary_user(server: Server) -> None:
    body = (await by_secret(server, user_type="bot", inhibit_login=True)).body
    assert "access_token" not in body
    account = await server.app.people.accounts.get("@root:localhost")
    assert account is not None
    assert not account.is_admin


async def test_hardening_31_proof_with_another_secret_or_other_fields_is_refused(server: Server) -> None:
    assert (await by_secret(server, 403, secret="guess")).errcode == "M_FORBIDDEN"
    nonce = (await server.client().get(ADMIN))["nonce"]
    mac = registration_mac("weft-dev-secret", nonce=nonce, username="root", password=PASSWORD, admin=False)
    assert (await by_secret(server, 403, nonce=nonce, mac=mac, admin=True)).errcode == "M_FORBIDDEN"
    assert (await by_secret(server, 403, mac="ä")).errcode == "M_FORBIDDEN"
    assert await server.app.people.accounts.get("@root:localhost") is None


async def test_refused_display_name_makes_no_account(server: Server) -> None:
    await by_secret(server, 400, displayname="x" * 257)
    assert await server.app.people.accounts.get("@root:localhost") is None


async def test_nonce_is_good_once(server: Server) -> None:
    nonce = (await server.client().get(ADMIN))["nonce"]
    await by_secret(server, 403, nonce=nonce, mac="wrong")
    assert "nonce" in (await by_secret(server, 400, nonce=nonce)).body["error"]
    assert "nonce" in (await by_secret(server, 400, nonce="made up")).body["error"]
    late = (await server.client().get(ADMIN))["nonce"]
    server.clock.ahead = 60 * 60_000
    assert "nonce" in (await by_secret(server, 400, nonce=late)).body["error"]


async def test_hardening_31_zero_bytes_cannot_shift_the_fields_of_the_proof(server: Server) -> None:
    await by_secret(server, 400, username="root\0x")
    await by_secret(server, 400, password="x\0notadmin")


async def test_hardening_32_no_secret_no_way(server: Server) -> None:
    await with_registration(server, shared_secret=None)
    assert (await server.client().call("GET", ADMIN, expect=400)).errcode == "M_UNKNOWN"
    mac = registration_mac("", nonce="n", username="root", password=PASSWORD, admin=True)
    body = {"nonce": "n", "username": "root", "password": PASSWORD, "admin": True, "mac": mac}
    await server.client().call("POST", ADMIN, body, expect=400)
    assert await server.app.people.accounts.get("@root:localhost") is None


async def test_shared_secret_is_read_from_the_configuration(server: Server) -> None:
    await with_registration(server, shared_secret=Secret("another secret"))
    await by_secret(server, 403)
    await by_secret(server, secret="another secret")
