"""Rate limits as clients meet them (spec: client-server "Rate limiting")."""

import asyncio
import json
import re
from typing import Any
from urllib.parse import quote

import msgspec
import pytest

from client_api.http import Route
from homeserver.config.options import Rate, RateLimits
from tests.client_api.conftest import SPEC_TOOLS, Client, Reply, Server

PASSWORD = "correct horse"
ENDPOINTS = SPEC_TOOLS.parent / "endpoints.json"
SLOW = 0.001


async def limit(server: Server, **rates: int) -> None:
    """Let these limits hold, with so many at once and no more for a long time; none of the others."""
    plenty = {name: Rate(1e6, 10**6) for name in RateLimits.__struct_fields__ if name != "enabled"}
    given = {name: Rate(SLOW, burst) for name, burst in rates.items()}
    options = RateLimits(enabled=True, **{**plenty, **given})
    await server.restart(msgspec.structs.replace(server.config, rate_limits=options))


def is_limited(reply: Reply) -> bool:
    if reply.status != 429:
        return False
    assert reply.errcode == "M_LIMIT_EXCEEDED"
    assert reply.body["retry_after_ms"] > 0
    assert int(reply.headers["Retry-After"]) * 1000 >= reply.body["retry_after_ms"]
    return True


async def log_in(server: Server, user: str, password: str = PASSWORD, **kwargs: Any) -> Reply:
    identifier = {"type": "m.id.user", "user": user}
    body = {"type": "m.login.password", "identifier": identifier, "password": password}
    return await server.client().call("POST", "/login", body, expect=None, **kwargs)


def declared(server: Server) -> list[Route]:
    return [route for module in server.app.modules for route, _ in module.routes()]


# What holds by default


def test_limits_hold_unless_they_are_switched_off() -> None:
    assert RateLimits().enabled


async def test_development_server_has_no_limits(alice: Client) -> None:
    room_id = await alice.create_room()
    await asyncio.gather(*(alice.send(room_id, "x") for _ in range(120)))


async def test_limits_that_routes_name_are_options(server: Server) -> None:
    named = {route.options["limit"] for route in declared(server) if "limit" in route.options}
    assert named <= set(RateLimits.__struct_fields__) - {"enabled"}


async def test_every_endpoint_that_the_specification_marks_is_limited(server: Server) -> None:
    # A page shows a hundred pictures at once: media is a matter of bytes, not of requests.
    endpoints = json.loads(ENDPOINTS.read_text())["endpoints"] if ENDPOINTS.exists() else []
    marked = {
        (endpoint["method"], re.sub(r"\{.*?\}", "{}", endpoint["path"]))
        for endpoint in endpoints
        if endpoint["rate_limited"] and "/media/" not in endpoint["path"]
    }
    here = {
        (route.method, re.sub(r"\{.*?\}", "{}", route.path)): "limit" in route.options
        for route in declared(server)
    }
    assert not endpoints or len(marked & set(here)) > 30
    assert [endpoint for endpoint in sorted(marked) if here.get(endpoint) is False] == []


# By user


async def test_messages_are_limited_for_each_user_by_themself(
    alice: Client, bob: Client, server: Server
) -> None:
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    await limit(server, message=3)
    path = f"/rooms/{quote(room_id)}/send/m.room.message/"
    text = {"msgtype": "m.text", "body": "x"}
    for number in range(3):
        await alice.put(f"{path}{number}", text)
    assert is_limited(await alice.call("PUT", f"{path}more", text, expect=None))
    state = f"/rooms/{quote(room_id)}/state/m.room.name"
    assert is_limited(await alice.call("PUT", state, {"name": "x"}, expect=None))
    await bob.put(f"{path}0", text)


async def test_devices_of_one_user_share_a_limit(alice: Client, server: Server) -> None:
    room_id = await alice.create_room()
    other = server.client()
    other.token = (await log_in(server, "alice")).body["access_token"]
    await limit(server, message=1)
    await alice.send(room_id)
    path = f"/rooms/{quote(room_id)}/send/m.room.message/1"
    assert is_limited(await other.call("PUT", path, {"msgtype": "m.text", "body": "x"}, expect=None))


@pytest.mark.parametrize(
    ("name", "method", "path", "body"),
    [
        ("join", "POST", "/rooms/{room}/join", {}),
        ("join", "POST", "/join/{room}", {}),
        ("join", "POST", "/knock/{room}", {}),
        ("invite", "POST", "/rooms/{room}/invite", {"user_id": "@bob:localhost"}),
        ("invite", "PUT", "/rooms/{room}/state/m.room.member/@bob:localhost", {"membership": "invite"}),
        ("join", "PUT", "/rooms/{room}/state/m.room.member/@alice:localhost", {"membership": "join"}),
        ("room_creation", "POST", "/createRoom", {}),
        ("profile", "PUT", "/profile/@alice:localhost/displayname", {"displayname": "x"}),
        ("ephemeral", "PUT", "/rooms/{room}/typing/@alice:localhost", {"typing": True}),
        ("message", "PUT", "/rooms/{room}/redact/$event/1", {}),
        ("request", "GET", "/account/whoami", None),
    ],
)
async def test_limit_of_each_kind_trips(
    alice: Client, server: Server, name: str, method: str, path: str, body: Any
) -> None:
    room_id = await alice.create_room()
    await limit(server, **{name: 1})
    path = path.replace("{room}", quote(room_id))
    assert not is_limited(await alice.call(method, path, body, expect=None))
    assert is_limited(await alice.call(method, path, body, expect=None))


async def test_invites_of_a_new_room_count_as_invites(alice: Client, bob: Client, server: Server) -> None:
    await limit(server, invite=2)
    await alice.create_room(invite=[bob.user_id, "@a:localhost"])
    assert is_limited(await alice.call("POST", "/createRoom", {"invite": [bob.user_id]}, expect=None))
    await alice.create_room()


# By address


async def test_logins_are_limited_by_address(alice: Client, server: Server) -> None:
    await limit(server, login_address=2)
    assert (await log_in(server, "alice")).status == 200
    assert (await log_in(server, "nobody")).status == 403
    assert is_limited(await log_in(server, "alice"))
    forwarded = {"X-Forwarded-For": "192.0.2.7"}
    assert (await log_in(server, "alice", headers=forwarded)).status == 200


async def test_registrations_are_limited_by_address_and_only_those_that_are_made(server: Server) -> None:
    await limit(server, registration=1)
    someone = server.client()
    for _ in range(3):
        assert (await someone.call("POST", "/register", {}, expect=None)).status == 401
    await server.register("alice")
    body = {"username": "bob", "password": PASSWORD, "auth": {"type": "m.login.dummy"}}
    assert is_limited(await someone.call("POST", "/register", body, expect=None))
    assert is_limited(await someone.call("POST", "/register", {}, query={"kind": "guest"}, expect=None))
    assert await server.app.people.accounts.get("@bob:localhost") is None


async def test_names_cannot_be_tried_out_without_end(server: Server) -> None:
    await limit(server, registration_check=2)
    someone = server.client()
    path = "/_matrix/client/v1/register/m.login.registration_token/validity"
    await someone.get("/register/available", query={"username": "a"})
    await someone.get(path, query={"token": "a"})
    assert is_limited(await someone.call("GET", path, query={"token": "b"}, expect=None))
    assert is_limited(await someone.call("GET", "/register/available", query={"username": "b"}, expect=None))
    assert is_limited(await someone.call("POST", "/register", {}, expect=None))
    assert is_limited(await someone.call("GET", "/_synapse/admin/v1/register", expect=None))


# HARDENING 29 and 38


async def test_hardening_29_passwords_cannot_be_guessed_from_many_addresses(
    alice: Client, server: Server
) -> None:
    await limit(server, login_failed=3)
    for number in range(3):
        reply = await log_in(server, "alice", "guess", headers={"X-Forwarded-For": f"192.0.2.{number}"})
        assert reply.status == 403
    reply = await log_in(server, "alice", headers={"X-Forwarded-For": "192.0.2.99"})
    assert is_limited(reply)
    assert not is_limited(await log_in(server, "bob"))


async def test_hardening_29_guesses_side_by_side_are_counted_before_they_are_tried(
    alice: Client, server: Server
) -> None:
    await limit(server, login_failed=3)
    replies = await asyncio.gather(*(log_in(server, "alice", "guess") for _ in range(20)))
    assert sum(reply.status == 403 for reply in replies) == 3
    assert sum(is_limited(reply) for reply in replies) == 17


async def test_hardening_29_the_confirming_password_is_no_way_round(alice: Client, server: Server) -> None:
    await limit(server, login_failed=2)
    identifier = {"type": "m.id.user", "user": "alice"}
    for _ in range(2):
        proof = {"type": "m.login.password", "identifier": identifier, "password": "guess"}
        await alice.call("POST", "/account/deactivate", {"auth": proof}, expect=401)
    right = {"type": "m.login.password", "identifier": identifier, "password": PASSWORD}
    assert is_limited(await alice.call("POST", "/account/deactivate", {"auth": right}, expect=None))


async def test_right_passwords_are_not_counted_as_wrong_ones(alice: Client, server: Server) -> None:
    await limit(server, login_failed=1)
    for _ in range(5):
        assert (await log_in(server, "alice")).status == 200


async def test_one_account_cannot_be_logged_into_without_end(alice: Client, server: Server) -> None:
    await limit(server, login_account=2)
    for _ in range(2):
        assert (await log_in(server, "alice")).status == 200
    assert is_limited(await log_in(server, "@ALICE:localhost"))


async def test_hardening_38_refused_requests_cost_no_work(alice: Client, server: Server) -> None:
    room_id = await alice.create_room()
    await limit(server, message=1, login_account=1)
    await alice.send(room_id)
    await log_in(server, "alice")
    tails = server.app.rooms.tails()
    hashed: list[str] = []
    verify = server.app.people.passwords.verify

    async def counted(stored: str | None, password: str) -> bool:
        hashed.append(password)
        return await verify(stored, password)

    server.app.people.passwords.verify = counted  # type: ignore[method-assign]
    path = f"/rooms/{quote(room_id)}/send/m.room.message/"
    for number in range(20):
        # Not even the body is read: this one is no JSON.
        assert is_limited(await alice.call("PUT", f"{path}{number}", data=b"{", expect=None))
        assert is_limited(await log_in(server, "alice"))
    assert server.app.rooms.tails() == tails
    assert hashed == []
    messages = server.app.ground.limits["message"]
    assert messages is not None
    assert messages.refused == 20
