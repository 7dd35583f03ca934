"""HARDENING 11 and 32 at the doors that are open to everybody: floods, and what logs must not hold."""

import io
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import pytest

from homeserver import logs
from tests.client_api.conftest import Client, Server

PASSWORD = "correct horse"
DOORS = [
    "/login",
    "/register",
    "/refresh",
    "/_synapse/admin/v1/register",
    "/account/3pid/email/requestToken",
    "/auth/m.login.password/fallback/web",
]


async def test_hardening_11_body_beyond_the_cap_is_refused(server: Server) -> None:
    cap = server.config.limits.max_body_size
    body = b'{"type":"m.login.password","padding":"' + b"x" * cap + b'"}'
    for path in DOORS:
        assert (await server.client().call("POST", path, data=body, expect=413)).errcode == "M_TOO_LARGE"
    # The server listens to the rest of such a body for a while; a client that is gone ends that.
    await server.http.close()


async def test_hardening_11_body_without_end_is_refused_at_the_cap(server: Server) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 65536
            yield b"x" * 65536

    cap = server.config.limits.max_body_size
    try:
        async with server.http.post(server.base + "/_matrix/client/v3/login", data=endless()) as response:
            assert response.status == 413
    except (ConnectionError, OSError):
        # The server has closed the connection before this side had read its answer.
        pass
    assert sent < 20 * cap


@pytest.mark.parametrize("path", DOORS[:5])
async def test_hardening_11_bodies_of_another_kind_are_refused(server: Server, path: str) -> None:
    multipart = b'--b\r\nContent-Disposition: form-data; name="type"\r\n\r\nm.login.password\r\n--b--\r\n'
    for content_type, data in (
        ("multipart/form-data; boundary=b", multipart),
        ("application/x-www-form-urlencoded", b"type=m.login.password"),
        ("application/json", b"\xff\xfe"),
        ("application/json", b'{"type":"\\ud800"}'),
    ):
        headers = {"Content-Type": content_type}
        reply = await server.client().call("POST", path, data=data, headers=headers, expect=None)
        assert reply.status in (400, 401), reply
        assert reply.errcode


async def test_hardening_11_forms_have_few_fields(server: Server) -> None:
    path = "/auth/m.login.password/fallback/web?session=x"
    form = "&".join(f"a{n}=1" for n in range(10_000)).encode()
    assert (await server.client().call("POST", path, data=form, expect=400)).status == 400


@pytest.mark.parametrize("path", DOORS[:3])
async def test_hardening_8_deep_json_is_refused(server: Server, path: str) -> None:
    for deep in (b'{"auth":' * 5000 + b"1" + b"}" * 5000, b'{"auth":' + b"[" * 50_000 + b"]" * 50_000 + b"}"):
        reply = await server.client().call("POST", path, data=deep, expect=400)
        assert reply.errcode in ("M_BAD_JSON", "M_NOT_JSON")


@pytest.fixture(params=["json", "console"])
def written(request: pytest.FixtureRequest, logging_as_it_was: None) -> io.StringIO:
    """What is logged, down to the least of it."""
    out = io.StringIO()
    logs.configure("debug", request.param, out)
    return out


async def test_hardening_32_no_secret_comes_into_the_log(
    written: io.StringIO, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = await server.register("alice")
    identifier = {"type": "m.id.user", "user": "alice"}
    login = {
        "type": "m.login.password",
        "identifier": identifier,
        "password": PASSWORD,
        "refresh_token": True,
    }
    tokens = await server.client().post("/login", login)
    challenge = (await alice.call("POST", "/account/deactivate", {}, expect=401)).body
    await alice.call("GET", "/account/whoami", query={"access_token": tokens["access_token"]})
    await server.client().call("POST", "/login", {**login, "password": "planted wrong one"}, expect=403)
    # A fault in the middle of each of them, which is logged with its traceback.

    async def fails(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("planted fault")

    for owner, name in (
        (server.app.people.accounts, "by_password"),
        (server.app.people.accounts, "begin"),
        (server.app.people.sessions, "refresh"),
    ):
        monkeypatch.setattr(owner, name, fails)
    await server.client().call("POST", "/login", login, expect=500)
    body = {"username": "bob", "password": PASSWORD, "auth": {"type": "m.login.dummy"}}
    await server.client().call("POST", "/register", body, expect=500)
    await server.client().call("POST", "/refresh", {"refresh_token": tokens["refresh_token"]}, expect=500)
    path = f"/auth/m.login.password/fallback/web?session={quote(challenge['session'])}"
    await server.client().call("POST", path, data=f"password={quote(PASSWORD)}".encode(), expect=500)
    text = written.getvalue()
    assert text.count("planted fault") >= 4
    assert alice.token is not None
    secrets = [
        PASSWORD,
        quote(PASSWORD),
        "planted wrong one",
        alice.token,
        tokens["access_token"],
        tokens["refresh_token"],
        challenge["session"],
        server.config.registration.shared_secret or "",
    ]
    for secret in secrets:
        assert secret not in text


async def test_token_in_the_query_is_accepted_while_the_specification_has_it(
    alice: Client, server: Server
) -> None:
    someone = server.client()
    assert (await someone.get("/account/whoami", query={"access_token": alice.token}))[
        "user_id"
    ] == alice.user_id
    someone.token = "made up"
    reply = await someone.call("GET", "/account/whoami", query={"access_token": alice.token}, expect=401)
    assert reply.errcode == "M_UNKNOWN_TOKEN"
