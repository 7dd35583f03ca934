"""Pushers (spec: client-server "Push Notifications")."""

import asyncio
from typing import Any

import pytest

from homeserver.push.pushers import MAX_PUSHERS
from tests.client_api.conftest import Client, Server
from tests.client_api.crypto_device import log_in

PUSHER: dict[str, Any] = {
    "app_id": "org.example.app",
    "pushkey": "abc",
    "kind": "http",
    "app_display_name": "App",
    "device_display_name": "Phone",
    "profile_tag": "tag",
    "lang": "en",
    "data": {"url": "https://push.example.org/_matrix/push/v1/notify", "format": "event_id_only", "own": 1},
}
DELETED = {"app_id": PUSHER["app_id"], "pushkey": PUSHER["pushkey"], "kind": None}


async def pushers(client: Client) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = (await client.get("/pushers"))["pushers"]
    return listed


async def test_a_pusher_is_set_listed_changed_and_deleted(alice: Client) -> None:
    assert await pushers(alice) == []
    await alice.post("/pushers/set", PUSHER)
    assert await pushers(alice) == [PUSHER]
    await alice.post("/pushers/set", {**PUSHER, "lang": "de"})
    await alice.post("/pushers/set", {**PUSHER, "pushkey": "other"})
    assert {(pusher["pushkey"], pusher["lang"]) for pusher in await pushers(alice)} == {
        ("abc", "de"),
        ("other", "en"),
    }
    await alice.post("/pushers/set", DELETED)
    await alice.post("/pushers/set", DELETED)
    assert [pusher["pushkey"] for pusher in await pushers(alice)] == ["other"]


async def test_the_same_app_on_a_phone_that_changed_hands_notifies_the_new_user_only(
    alice: Client, bob: Client
) -> None:
    await alice.post("/pushers/set", PUSHER)
    await bob.post("/pushers/set", {**PUSHER, "append": True})
    assert len(await pushers(alice)) == 1
    await bob.post("/pushers/set", {**PUSHER, "append": False})
    assert (len(await pushers(alice)), len(await pushers(bob))) == (0, 1)


async def test_of_users_who_take_over_an_app_at_the_same_moment_one_has_it(server: Server) -> None:
    users = [await server.client().register(f"user{n}") for n in range(3)]
    for attempt in range(5):
        pusher = {**PUSHER, "pushkey": f"phone{attempt}"}
        await asyncio.gather(*(user.post("/pushers/set", pusher) for user in users))
        listed = [each for user in users for each in await pushers(user)]
        assert len(listed) == attempt + 1


async def test_deleting_a_pusher_leaves_another_users_alone(alice: Client, bob: Client) -> None:
    await alice.post("/pushers/set", PUSHER)
    await bob.post("/pushers/set", DELETED)
    assert len(await pushers(alice)) == 1


@pytest.mark.parametrize(
    "missing", ["app_id", "pushkey", "kind", "lang", "data", "app_display_name", "device_display_name"]
)
async def test_what_is_missing_is_named(alice: Client, missing: str) -> None:
    body = {key: value for key, value in PUSHER.items() if key != missing}
    reply = await alice.call("POST", "/pushers/set", body, expect=400)
    assert reply.errcode == "M_MISSING_PARAM"
    assert missing in reply.body["error"]
    assert await pushers(alice) == []


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "email"},
        {"kind": ""},
        {"app_id": ""},
        {"app_id": "x" * 65},
        {"pushkey": ""},
        {"pushkey": "é" * 257},
        {"lang": "x" * 10_000},
        {"data": {}},
        {"data": {"url": 7}},
        {"data": {"url": "http://push.example.org/_matrix/push/v1/notify"}},
        {"data": {"url": "https://push.example.org/elsewhere"}},
        {"data": {"url": "https:///_matrix/push/v1/notify"}},
        {"data": {"url": "https://push.example.org:99999/_matrix/push/v1/notify"}},
        {"data": {"url": "https://me:secret@push.example.org/_matrix/push/v1/notify"}},
        {"data": {"url": "https://push.example.org\n/_matrix/push/v1/notify"}},
        {"data": {"url": "https://[::1/_matrix/push/v1/notify"}},
        {"data": {**PUSHER["data"], "format": "everything"}},
        {"data": {**PUSHER["data"], "custom": "x" * 20_000}},
    ],
)
async def test_what_is_no_pusher_is_refused_and_changes_nothing(
    alice: Client, change: dict[str, Any]
) -> None:
    await alice.call("POST", "/pushers/set", {**PUSHER, **change}, expect=400)
    assert await pushers(alice) == []


async def test_growth_by_small_writes_ends_at_a_limit(alice: Client) -> None:
    """HARDENING 14."""
    for number in range(MAX_PUSHERS):
        await alice.post("/pushers/set", {**PUSHER, "pushkey": f"k{number}"})
    await alice.call("POST", "/pushers/set", {**PUSHER, "pushkey": "more"}, expect=400)
    await alice.post("/pushers/set", {**PUSHER, "pushkey": "k1", "lang": "fr"})
    assert len(await pushers(alice)) == MAX_PUSHERS


async def test_pushers_end_with_the_device_that_set_them(server: Server, alice: Client) -> None:
    other = server.client()
    login = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": "alice"},
        "password": "correct horse",
    }
    body = await other.post("/login", login)
    other.token, other.user_id = body["access_token"], body["user_id"]
    await other.post("/pushers/set", {**PUSHER, "pushkey": "other"})
    await alice.post("/pushers/set", PUSHER)
    await other.post("/logout")
    assert [pusher["pushkey"] for pusher in await pushers(alice)] == ["abc"]


async def test_pusher_that_is_set_while_its_device_is_logged_out_is_gone(
    server: Server, alice: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    phone = await log_in(alice)
    known = server.app.syncing.pushers
    of_user = known.of_user

    async def overtaken(user_id: str) -> Any:
        monkeypatch.undo()
        await phone.post("/logout")
        return await of_user(user_id)

    monkeypatch.setattr(known, "of_user", overtaken)
    await phone.call("POST", "/pushers/set", PUSHER, expect=None)
    assert await pushers(alice) == []


async def test_pushers_survive_a_restart(server: Server, alice: Client) -> None:
    await alice.post("/pushers/set", PUSHER)
    await server.restart()
    again = server.client()
    again.token = alice.token
    assert await pushers(again) == [PUSHER]
