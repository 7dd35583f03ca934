"""The administrators' ways with registration tokens, as tools made for Synapse use them."""

import asyncio
import re
import time
from typing import Any

import msgspec
import pytest

from tests.client_api.conftest import Client, Reply, Server

TOKENS = "/_synapse/admin/v1/registration_tokens"
FAR = 4_781_243_146_000


@pytest.fixture
async def root(server: Server) -> Client:
    """An administrator."""
    client = await server.register("root")
    await server.app.people.accounts.update(client.user_id, is_admin=True)
    return client


async def new(root: Client, **options: Any) -> dict[str, Any]:
    token: dict[str, Any] = await root.post(f"{TOKENS}/new", options)
    return token


async def names(root: Client, query: str = "") -> list[str]:
    return [shown["token"] for shown in (await root.get(TOKENS + query))["registration_tokens"]]


async def register_with(server: Server, name: str, token: str) -> Reply:
    auth = {"type": "m.login.registration_token", "token": token}
    body = {"username": name, "password": "correct horse", "auth": auth}
    return await server.client().call("POST", "/register", body, expect=None)


async def require_tokens(server: Server) -> None:
    registration = msgspec.structs.replace(server.config.registration, requires_token=True)
    await server.restart(msgspec.structs.replace(server.config, registration=registration))


async def test_new_token_is_random_and_without_limits(root: Client) -> None:
    first, second = await new(root), await new(root)
    assert re.fullmatch(r"[A-Za-z0-9._~-]{16}", first["token"])
    assert first["token"] != second["token"]
    assert first == {
        "token": first["token"],
        "uses_allowed": None,
        "pending": 0,
        "completed": 0,
        "expiry_time": None,
    }
    assert await root.get(f"{TOKENS}/{first['token']}") == first


@pytest.mark.parametrize("length", [1, 64])
async def test_random_token_has_the_length_asked_for(root: Client, length: int) -> None:
    assert len((await new(root, length=length))["token"]) == length


async def test_new_token_is_as_asked(root: Client) -> None:
    asked = {"token": "a.b_c~d-E9", "uses_allowed": 1, "expiry_time": FAR}
    shown = {**asked, "pending": 0, "completed": 0}
    assert await new(root, **asked) == shown
    assert await root.get(f"{TOKENS}/a.b_c~d-E9") == shown


@pytest.mark.parametrize(
    ("body", "errcode"),
    [
        ({"token": "taken"}, "M_INVALID_PARAM"),
        ({"token": ""}, "M_INVALID_PARAM"),
        ({"token": "x" * 65}, "M_INVALID_PARAM"),
        ({"token": "with space"}, "M_INVALID_PARAM"),
        ({"token": "ümlaut"}, "M_INVALID_PARAM"),
        ({"token": 7}, "M_BAD_JSON"),
        ({"length": 0}, "M_INVALID_PARAM"),
        ({"length": 65}, "M_INVALID_PARAM"),
        ({"length": "8"}, "M_BAD_JSON"),
        ({"uses_allowed": -1}, "M_INVALID_PARAM"),
        ({"uses_allowed": 2**53}, "M_INVALID_PARAM"),
        ({"uses_allowed": 1.5}, "M_BAD_JSON"),
        ({"expiry_time": 1}, "M_INVALID_PARAM"),
        ({"expiry_time": 10**30}, "M_BAD_JSON"),
    ],
)
async def test_what_can_be_no_token_is_not_made(root: Client, body: dict[str, Any], errcode: str) -> None:
    await new(root, token="taken", uses_allowed=3)
    assert (await root.call("POST", f"{TOKENS}/new", body, expect=400)).errcode == errcode
    assert (await root.get(TOKENS))["registration_tokens"] == [await root.get(f"{TOKENS}/taken")]


async def test_list_tells_valid_tokens_from_others(server: Server, root: Client) -> None:
    await new(root, token="good", uses_allowed=2, expiry_time=FAR)
    await new(root, token="ends", expiry_time=int(time.time() * 1000) + 300)
    await new(root, token="none", uses_allowed=0)
    assert await names(root, "?valid=true") == ["ends", "good"]
    await asyncio.sleep(0.35)
    assert await names(root) == ["ends", "good", "none"]
    assert await names(root, "?valid=true") == ["good"]
    assert await names(root, "?valid=false") == ["ends", "none"]
    assert (await root.call("GET", f"{TOKENS}?valid=maybe", expect=400)).errcode == "M_INVALID_PARAM"


async def test_list_has_all_tokens_however_many(root: Client, server: Server) -> None:
    made = [f"{number:04}" for number in range(1001)]
    await asyncio.gather(*(server.app.signing_in.registration_tokens.create(token) for token in made))
    assert await names(root) == made


async def test_registrations_are_counted(server: Server, root: Client) -> None:
    await new(root, token="twice", uses_allowed=2)
    await require_tokens(server)
    assert (await register_with(server, "a", "twice")).status == 200
    shown = await root.get(f"{TOKENS}/twice")
    assert (shown["uses_allowed"], shown["completed"]) == (2, 1)
    assert (await register_with(server, "a", "twice")).errcode == "M_USER_IN_USE"
    assert (await root.get(f"{TOKENS}/twice"))["completed"] == 1


async def test_change_leaves_what_it_does_not_name(server: Server, root: Client) -> None:
    await new(root, token="abc", uses_allowed=0, expiry_time=FAR)
    await require_tokens(server)
    assert (await register_with(server, "a", "abc")).status == 401
    changed = await root.put(f"{TOKENS}/abc", {"uses_allowed": 1})
    assert (changed["uses_allowed"], changed["expiry_time"]) == (1, FAR)
    assert (await register_with(server, "a", "abc")).status == 200
    changed = await root.put(f"{TOKENS}/abc", {"uses_allowed": None, "expiry_time": None})
    assert (changed["uses_allowed"], changed["completed"], changed["expiry_time"]) == (None, 1, None)
    assert (await register_with(server, "b", "abc")).status == 200
    assert await root.put(f"{TOKENS}/abc", {}) == await root.get(f"{TOKENS}/abc")


@pytest.mark.parametrize("body", [{"uses_allowed": -1}, {"expiry_time": 1}, {"uses_allowed": "3"}])
async def test_change_to_what_cannot_be_changes_nothing(root: Client, body: dict[str, Any]) -> None:
    before = await new(root, token="abc", uses_allowed=5)
    await root.call("PUT", f"{TOKENS}/abc", body, expect=400)
    assert await root.get(f"{TOKENS}/abc") == before


async def test_nobody_registers_with_a_token_that_was_deleted(server: Server, root: Client) -> None:
    await new(root, token="abc")
    await require_tokens(server)
    assert await root.delete(f"{TOKENS}/abc") == {}
    assert (await register_with(server, "a", "abc")).status == 401
    assert await names(root) == []


@pytest.mark.parametrize("token", ["none", "x" * 300, "%00", "a%2Fb"])
async def test_token_that_is_not_there_is_not_found(root: Client, token: str) -> None:
    for method in ("GET", "PUT", "DELETE"):
        body = {"uses_allowed": 1} if method == "PUT" else None
        reply = await root.call(method, f"{TOKENS}/{token}", body, expect=404)
        assert reply.errcode == "M_NOT_FOUND"


async def test_hardening_31_admin_routes_are_for_administrators(
    server: Server, root: Client, alice: Client
) -> None:
    """All that there are, but the one that proves itself by the shared secret."""
    await new(root, token="abc")
    routes = [declared for module in server.app.modules for declared, _ in module.routes()]
    admin = [route for route in routes if route.path.startswith("/_synapse/admin/")]
    asked = [route for route in admin if route.path != "/_synapse/admin/v1/register"]
    assert len(asked) >= 5
    for route in asked:
        path = re.sub(r"\{\w+\}", "abc", route.path)
        assert (await alice.call(route.method, path, {}, expect=403)).errcode == "M_FORBIDDEN"
        assert (await server.client().call(route.method, path, {}, expect=401)).errcode == "M_MISSING_TOKEN"
    assert await names(root) == ["abc"]
