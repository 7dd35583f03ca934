"""User-interactive authentication, by way of endpoints that need it, and by itself."""

import asyncio
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import pytest

from homeserver.config.options import Policy, PolicyText, Rate, RateLimits
from homeserver.users.tokens import digest_of
from homeserver.users.uia import LIFETIME_MS, MAX_SESSIONS, Attempt, Challenge, Uia
from homeserver.users.uia_stages import DUMMY, TERMS, DummyStage, TermsStage
from storage.log import ShardMap
from storage.records.accounts import SPECS, UIA_SESSIONS
from storage.sqlite import open_store
from tests.client_api.conftest import Client, Reply, Server

PASSWORD = "correct horse"


def by_password(user: Client, password: str = PASSWORD, session: str | None = None) -> dict[str, Any]:
    auth = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": user.user_id},
        "password": password,
    }
    return auth if session is None else {**auth, "session": session}


async def challenge(client: Client, method: str, path: str, body: Any) -> Any:
    return (await client.call(method, path, body, expect=401)).body


async def with_terms_and_token(server: Server, *, requires_token: bool = True) -> None:
    terms = (Policy("privacy", "1.2", {"en": PolicyText("Privacy <b>", "https://example.org/p?a=1&b=2")}),)
    registration = msgspec.structs.replace(
        server.config.registration, requires_token=requires_token, terms=terms
    )
    await server.restart(msgspec.structs.replace(server.config, registration=registration))


# Stages and flows


async def test_first_request_is_told_the_flows_and_gets_a_session(alice: Client) -> None:
    body = await challenge(alice, "POST", "/account/deactivate", {})
    assert body["flows"] == [{"stages": ["m.login.password"]}]
    assert body["params"] == {}
    assert body["session"]
    assert "errcode" not in body
    assert "completed" not in body


async def test_right_password_lets_the_request_through(alice: Client, server: Server) -> None:
    other = await log_in(server, alice, "OTHER")
    first = await challenge(alice, "DELETE", "/devices/OTHER", {})
    await alice.delete("/devices/OTHER", {"auth": by_password(alice, session=first["session"])})
    assert (await other.call("GET", "/account/whoami", expect=401)).errcode == "M_UNKNOWN_TOKEN"


async def test_wrong_password_is_an_error_within_the_challenge(alice: Client) -> None:
    first = await challenge(alice, "POST", "/account/deactivate", {})
    wrong = await challenge(
        alice, "POST", "/account/deactivate", {"auth": by_password(alice, "wrong", first["session"])}
    )
    assert wrong["errcode"] == "M_FORBIDDEN"
    assert wrong["error"]
    assert wrong["session"] == first["session"]
    assert wrong["flows"] == first["flows"]
    assert (await alice.get("/account/whoami"))["user_id"] == alice.user_id


async def test_another_users_password_proves_nothing(alice: Client, bob: Client) -> None:
    reply = await alice.call("POST", "/account/deactivate", {"auth": by_password(bob)}, expect=403)
    assert reply.errcode == "M_FORBIDDEN"
    assert (await alice.get("/account/whoami"))["user_id"] == alice.user_id


async def test_missing_password_is_an_error_within_the_challenge(alice: Client) -> None:
    body = await challenge(alice, "POST", "/account/deactivate", {"auth": {"type": "m.login.password"}})
    assert body["errcode"] == "M_MISSING_PARAM"


async def test_stage_that_is_in_no_flow_is_refused(alice: Client) -> None:
    for type in ("m.login.dummy", "m.login.recaptcha", "x" * 1000):
        body = await challenge(alice, "POST", "/account/deactivate", {"auth": {"type": type}})
        assert body["errcode"] == "M_FORBIDDEN"


@pytest.mark.parametrize("auth", ["text", 1, [], True])
async def test_malformed_auth_is_an_error_of_the_request(alice: Client, auth: Any) -> None:
    assert (
        await alice.call("POST", "/account/deactivate", {"auth": auth}, expect=400)
    ).errcode == "M_BAD_JSON"


@pytest.mark.parametrize("field", ["type", "session"])
@pytest.mark.parametrize("value", [1, [], {}, True])
async def test_malformed_type_or_session_proves_nothing(alice: Client, field: str, value: Any) -> None:
    body = {"auth": {**by_password(alice), field: value}}
    reply = await alice.call("POST", "/account/deactivate", body, expect=None)
    if field == "type":
        assert (reply.status, reply.errcode) == (401, "M_FORBIDDEN")
    else:
        assert reply.status == (401 if value else 200)


async def test_stages_are_completed_in_order(server: Server) -> None:
    await with_terms_and_token(server)
    await server.app.signing_in.registration_tokens.create("sesame")
    someone = server.client()
    wish = {"username": "alice", "password": PASSWORD}
    first = await challenge(someone, "POST", "/register", wish)
    assert first["flows"] == [{"stages": ["m.login.registration_token", "m.login.terms"]}]
    session = first["session"]
    early = await challenge(
        someone, "POST", "/register", {**wish, "auth": {"type": "m.login.terms", "session": session}}
    )
    assert early["errcode"] == "M_FORBIDDEN"
    token = {"type": "m.login.registration_token", "token": "sesame", "session": session}
    second = await challenge(someone, "POST", "/register", {**wish, "auth": token})
    assert second["completed"] == ["m.login.registration_token"]
    assert "errcode" not in second
    again = await challenge(someone, "POST", "/register", {**wish, "auth": token})
    assert again["completed"] == ["m.login.registration_token"]
    await someone.post("/register", {**wish, "auth": {"type": "m.login.terms", "session": session}})
    account = await server.app.people.accounts.get("@alice:localhost")
    assert account is not None
    assert account.agreed_to == {"privacy": "1.2"}


async def test_policies_are_shown_with_the_terms_stage(server: Server) -> None:
    await with_terms_and_token(server, requires_token=False)
    body = await challenge(server.client(), "POST", "/register", {})
    assert body["params"]["m.login.terms"]["policies"] == {
        "privacy": {
            "version": "1.2",
            "en": {"name": "Privacy <b>", "url": "https://example.org/p?a=1&b=2"},
        }
    }


async def test_session_remembers_the_request_for_one_who_comes_back_with_the_session_alone(
    server: Server,
) -> None:
    await with_terms_and_token(server)
    await server.app.signing_in.registration_tokens.create("sesame")
    someone = server.client()
    wish = {"username": "alice", "password": PASSWORD, "initial_device_display_name": "phone"}
    session = (await challenge(someone, "POST", "/register", wish))["session"]
    await challenge(
        someone,
        "POST",
        "/register",
        {"auth": {"type": "m.login.registration_token", "token": "sesame", "session": session}},
    )
    body = await someone.post("/register", {"auth": {"type": "m.login.terms", "session": session}})
    assert body["user_id"] == "@alice:localhost"
    someone.token = body["access_token"]
    assert [d["display_name"] for d in (await someone.get("/devices"))["devices"]] == ["phone"]


async def test_request_that_cannot_be_is_refused_before_anything_is_to_be_proved(alice: Client) -> None:
    assert (await alice.call("POST", "/account/password", {}, expect=400)).errcode == "M_MISSING_PARAM"
    short = await alice.call("POST", "/account/password", {"new_password": "short"}, expect=400)
    assert short.errcode == "M_WEAK_PASSWORD"
    assert (
        await alice.call("POST", "/delete_devices", {"devices": "all"}, expect=400)
    ).errcode == "M_BAD_JSON"


# HARDENING 30: what a session is good for


async def test_hardening_30_session_is_good_for_its_own_request_only(alice: Client, server: Server) -> None:
    await log_in(server, alice, "ONE")
    await log_in(server, alice, "TWO")
    session = (await challenge(alice, "DELETE", "/devices/ONE", {}))["session"]
    elsewhere = await challenge(alice, "DELETE", "/devices/TWO", {"auth": {"session": session}})
    assert elsewhere["session"] != session
    assert elsewhere["errcode"] == "M_UNKNOWN"
    body = {"auth": by_password(alice, session=session)}
    assert (await challenge(alice, "POST", "/account/deactivate", body))["session"] != session
    assert (await challenge(alice, "DELETE", "/devices/TWO", body))["session"] != session
    assert {d["device_id"] for d in (await alice.get("/devices"))["devices"]} >= {"ONE", "TWO"}


async def test_hardening_30_session_is_good_for_its_own_user_and_device_only(
    alice: Client, bob: Client, server: Server
) -> None:
    other = await log_in(server, alice, "OTHER")
    session = (await challenge(alice, "POST", "/account/deactivate", {}))["session"]
    for stranger, proof in (
        (bob, by_password(bob, session=session)),
        (other, by_password(alice, session=session)),
    ):
        body = await challenge(stranger, "POST", "/account/deactivate", {"auth": proof})
        assert body["errcode"] == "M_UNKNOWN"
        assert body["session"] != session
        assert "completed" not in body


async def test_hardening_30_completed_session_passes_once(server: Server) -> None:
    await with_terms_and_token(server, requires_token=False)
    someone = server.client()
    session = (await challenge(someone, "POST", "/register", {}))["session"]
    auth = {"type": "m.login.terms", "session": session}
    wishes = [{"username": f"user{n}", "password": PASSWORD, "auth": auth} for n in range(5)]
    replies = await asyncio.gather(*(someone.call("POST", "/register", w, expect=None) for w in wishes))
    assert sorted(reply.status for reply in replies)[0] == 200
    assert sum(reply.status == 200 for reply in replies) == 1


async def test_who_has_to_wait_to_register_has_nothing_to_prove_again(server: Server) -> None:
    await with_terms_and_token(server, requires_token=False)
    once = RateLimits(registration=Rate(0.001, 1))
    await server.restart(msgspec.structs.replace(server.config, rate_limits=once))

    async def register(name: str, auth: Any = None) -> Reply:
        wish = {"username": name, "password": PASSWORD}
        body = wish if auth is None else {**wish, "auth": auth}
        return await server.client().call("POST", "/register", body, expect=None)

    auths = [
        {"type": "m.login.terms", "session": (await register(name)).body["session"]}
        for name in ("alice", "bob")
    ]
    assert (await register("alice", auths[0])).status == 200
    assert (await register("bob", auths[1])).errcode == "M_LIMIT_EXCEEDED"
    await server.restart()
    assert (await register("bob", auths[1])).status == 200


async def test_hardening_32_password_in_a_remembered_request_is_not_readable_in_the_store(
    server: Server,
) -> None:
    await with_terms_and_token(server)
    secret = "planted-password-in-the-clear"
    body = await challenge(server.client(), "POST", "/register", {"username": "alice", "password": secret})
    await server.stop()
    stored = server.data.kept()
    assert digest_of(body["session"]).encode() in stored
    assert secret.encode() not in stored
    assert body["session"].encode() not in stored


async def test_hardening_14_request_that_is_too_large_to_be_remembered_is_refused(alice: Client) -> None:
    fits = {"devices": [], "padding": "x" * 60_000}
    assert await challenge(alice, "POST", "/delete_devices", fits)
    over = {"devices": [], "padding": "x" * 70_000}
    assert (await alice.call("POST", "/delete_devices", over, expect=413)).errcode == "M_TOO_LARGE"


# The mechanism itself, under a clock of its own


class Bench:
    """`Uia` on a real store."""

    def __init__(self, uia: Uia) -> None:
        self.uia = uia
        self.now = 1_000_000

    async def attempt(self, auth: Any = None, *, body: Any = None, operation: str = "POST /x") -> Any:
        """What passed, or the challenge."""
        sent = {**(body or {}), **({"auth": auth} if auth is not None else {})}

        async def check(parameters: Any) -> Any:
            return parameters

        flows = [(DUMMY, TERMS)]
        try:
            return await self.uia.authenticate(
                Attempt(operation, None, None, "192.0.2.1", sent), flows, check
            )
        except Challenge as error:
            return error


@pytest.fixture
async def bench(tmp_path: Path) -> Any:
    store = await open_store(
        f"sqlite:///{tmp_path}/x.db", server_name="localhost", shards=ShardMap(1, 1), specs=SPECS
    )
    sessions = store.collection(UIA_SESSIONS)
    made = Bench(Uia(sessions, {DUMMY: DummyStage(), TERMS: TermsStage(())}, lambda: made.now))
    made.sessions = sessions  # type: ignore[attr-defined]
    yield made
    await store.close()


async def test_session_expires(bench: Any) -> None:
    session = (await bench.attempt()).extra["session"]
    bench.now += LIFETIME_MS
    late = await bench.attempt({"type": DUMMY, "session": session})
    assert late.errcode == "M_UNKNOWN"
    assert late.extra["session"] != session
    assert "completed" not in late.extra


async def test_expired_sessions_are_deleted_as_new_ones_come(bench: Any) -> None:
    for _ in range(10):
        await bench.attempt()
    bench.now += LIFETIME_MS
    await bench.attempt()
    assert await bench.sessions.count("key") == 1


async def test_hardening_14_one_address_holds_a_bounded_number_of_sessions(bench: Any) -> None:
    first = (await bench.attempt()).extra["session"]
    for _ in range(MAX_SESSIONS):
        bench.now += 1
        await bench.attempt()
    assert await bench.sessions.count("key") == MAX_SESSIONS
    assert await bench.uia.session(first) is None


async def test_stages_completed_at_the_same_time_are_not_lost(bench: Any) -> None:
    session = (await bench.attempt()).extra["session"]
    await asyncio.gather(*(bench.attempt({"type": DUMMY, "session": session}) for _ in range(5)))
    passed = await bench.attempt({"type": TERMS, "session": session})
    assert passed.proofs == {DUMMY: "", TERMS: "{}"}


async def test_parameters_of_the_last_request_count(bench: Any) -> None:
    session = (await bench.attempt(body={"a": 1})).extra["session"]
    await bench.attempt({"type": DUMMY, "session": session}, body={"a": 2})
    assert (await bench.attempt({"type": TERMS, "session": session})).parameters == {"a": 2}


# Fallback pages


async def fallback(client: Client, stage: str, session: str, form: str | None = None) -> Reply:
    path = f"/auth/{stage}/fallback/web?session={quote(session)}"
    if form is None:
        return await client.call("GET", path, expect=None)
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    return await client.call("POST", path, data=form.encode(), headers=headers, expect=None)


async def test_password_stage_can_be_completed_in_a_browser(alice: Client, server: Server) -> None:
    await log_in(server, alice, "OTHER")
    session = (await challenge(alice, "DELETE", "/devices/OTHER", {}))["session"]
    browser = server.client()
    page = await fallback(browser, "m.login.password", session)
    assert page.status == 200
    assert page.headers["Content-Type"].startswith("text/html")
    assert alice.user_id.encode() in page.body
    wrong = await fallback(browser, "m.login.password", session, "password=nope")
    assert wrong.status == 401
    assert b"Wrong user name or password" in wrong.body
    assert not (await challenge(alice, "DELETE", "/devices/OTHER", {"auth": {"session": session}})).get(
        "completed"
    )
    done = await fallback(browser, "m.login.password", session, "password=correct+horse")
    assert done.status == 200
    assert b"stage_done.js" in done.body
    await alice.delete("/devices/OTHER", {"auth": {"session": session}})


async def test_registration_stages_can_be_completed_in_a_browser(server: Server) -> None:
    await with_terms_and_token(server)
    await server.app.signing_in.registration_tokens.create("sesame")
    someone = server.client()
    session = (await challenge(someone, "POST", "/register", {"username": "alice", "password": PASSWORD}))[
        "session"
    ]
    assert (await fallback(someone, "m.login.terms", session)).status == 400
    assert (await fallback(someone, "m.login.registration_token", session, "token=wrong")).status == 401
    assert (await fallback(someone, "m.login.registration_token", session, "token=sesame")).status == 200
    page = await fallback(someone, "m.login.terms", session)
    assert b'<a href="https://example.org/p?a=1&amp;b=2"' in page.body
    assert (await fallback(someone, "m.login.terms", session, "")).status == 200
    assert b"stage_done.js" in (await fallback(someone, "m.login.terms", session)).body
    body = await someone.post("/register", {"auth": {"session": session}})
    assert body["user_id"] == "@alice:localhost"


async def test_page_that_ends_a_stage_tells_the_client_as_the_specification_says(server: Server) -> None:
    script = (await server.client().call("GET", "/_matrix/static/client/stage_done.js")).body
    assert b"window.onAuthDone()" in script
    assert b'window.opener.postMessage("authDone", "*")' in script


async def test_hardening_28_fallback_pages_hold_no_foreign_markup(alice: Client, server: Server) -> None:
    hostile = "<script>alert(1)</script>"
    session = (await challenge(alice, "POST", "/account/deactivate", {}))["session"]
    await with_terms_and_token(server, requires_token=False)
    browser = server.client()
    terms = (await challenge(browser, "POST", "/register", {}))["session"]
    replies = [
        await fallback(browser, "m.login.password", session, f"password={quote(hostile)}"),
        await fallback(browser, "m.login.password", hostile),
        await fallback(browser, quote(hostile, safe=""), session),
        await fallback(browser, "m.login.terms", terms),
    ]
    for reply in replies:
        assert reply.headers["Content-Type"].startswith("text/html")
        assert b"<script>" not in reply.body
        assert b"Privacy <b>" not in reply.body
        assert "script-src 'self'" in reply.headers["Content-Security-Policy"]
        assert "default-src 'none'" in reply.headers["Content-Security-Policy"]
        assert reply.headers["X-Content-Type-Options"] == "nosniff"


async def test_page_of_an_unknown_session_or_stage_is_a_page_all_the_same(server: Server) -> None:
    for stage, session, status in (
        ("m.login.password", "nope", 400),
        ("m.login.dummy", "", 400),
        ("m.login.recaptcha", "nope", 404),
    ):
        reply = await fallback(server.client(), stage, session)
        assert reply.status == status
        assert reply.headers["Content-Type"].startswith("text/html")
        assert (await fallback(server.client(), stage, session, "a=b")).status == 400


async def log_in(server: Server, user: Client, device_id: str) -> Client:
    """Another device of the same user."""
    other = server.client()
    body = await other.post(
        "/login",
        {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": user.user_id},
            "password": PASSWORD,
            "device_id": device_id,
        },
    )
    other.token, other.user_id, other.device_id = body["access_token"], body["user_id"], body["device_id"]
    return other
