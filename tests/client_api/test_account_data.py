"""Account data, tags, profiles, invite permission (spec: client-server modules of those names)."""

import asyncio
from typing import Any
from urllib.parse import quote

import pytest

from homeserver.errors import unavailable
from tests.client_api.conftest import Client, Server


async def test_account_data_reaches_the_users_other_syncs(alice: Client) -> None:
    await alice.sync()
    await alice.put(f"/user/{alice.user_id}/account_data/org.example.x", {"a": 1})
    body = await alice.sync(timeout=1000)
    assert body["account_data"]["events"] == [{"type": "org.example.x", "content": {"a": 1}}]
    assert await alice.get(f"/user/{alice.user_id}/account_data/org.example.x") == {"a": 1}


async def test_managed_types_are_refused_with_405(alice: Client) -> None:
    for type in ("m.fully_read", "m.push_rules"):
        await alice.call("PUT", f"/user/{alice.user_id}/account_data/{type}", {}, expect=405)


async def test_another_users_account_data_is_forbidden(alice: Client, bob: Client) -> None:
    await alice.call("PUT", f"/user/{bob.user_id}/account_data/x", {}, expect=403)
    await alice.call("GET", f"/user/{bob.user_id}/account_data/x", expect=403)


async def test_tags_of_a_room_are_set_listed_and_removed(alice: Client) -> None:
    room_id = await alice.create_room()
    base = f"/user/{alice.user_id}/rooms/{room_id}/tags"
    await alice.put(f"{base}/m.favourite", {"order": 0.5})
    await alice.put(f"{base}/u.work", {})
    assert (await alice.get(base))["tags"] == {"m.favourite": {"order": 0.5}, "u.work": {}}
    await alice.delete(f"{base}/m.favourite")
    assert (await alice.get(base))["tags"] == {"u.work": {}}


async def test_account_data_of_a_room_comes_with_the_room(alice: Client, bob: Client) -> None:
    """What was set before the join comes with it: no later answer would tell it."""
    room_id = await alice.create_room(preset="public_chat")
    await bob.put(f"/user/{bob.user_id}/rooms/{room_id}/tags/m.favourite", {"order": 0.5})
    await bob.put(f"/user/{bob.user_id}/rooms/{room_id}/account_data/org.example.x", {"a": 1})
    await bob.sync()
    await bob.join(room_id)
    section = (await bob.sync())["rooms"]["join"][room_id]
    told = {event["type"]: event["content"] for event in section["account_data"]["events"]}
    assert told == {"m.tag": {"tags": {"m.favourite": {"order": 0.5}}}, "org.example.x": {"a": 1}}


@pytest.mark.parametrize("tags", [None, [], "u.work"])
async def test_what_a_client_wrote_in_place_of_tags_counts_as_none(alice: Client, tags: Any) -> None:
    base = f"/user/{alice.user_id}/rooms/{await alice.create_room()}"
    await alice.put(f"{base}/account_data/m.tag", {"tags": tags})
    assert (await alice.get(f"{base}/tags"))["tags"] == {}
    await alice.delete(f"{base}/tags/u.work")
    await alice.put(f"{base}/account_data/m.tag", {"tags": tags})
    await alice.put(f"{base}/tags/u.work", {})
    assert (await alice.get(f"{base}/tags"))["tags"] == {"u.work": {}}


async def test_no_tag_is_lost_where_users_leave_memory_all_the_time(server: Server, alice: Client) -> None:
    room_id = await alice.create_room()
    users = server.app.users
    users.max_users = 1

    async def others() -> None:
        for number in range(200):
            await users.get(f"@another{number}:{users.server_name}")

    async def tag(number: int) -> None:
        await alice.put(f"/user/{alice.user_id}/rooms/{room_id}/tags/u.{number}", {})

    await asyncio.gather(others(), *map(tag, range(20)))
    kept = await alice.get(f"/user/{alice.user_id}/rooms/{room_id}/tags")
    assert kept["tags"].keys() == {f"u.{number}" for number in range(20)}


async def test_account_data_survives_a_restart(server: Server, alice: Client) -> None:
    await alice.put(f"/user/{alice.user_id}/account_data/org.example.x", {"a": 1})
    await server.restart()
    again = server.client()
    again.token = alice.token
    assert await again.get(f"/user/{alice.user_id}/account_data/org.example.x") == {"a": 1}


async def test_new_displayname_is_carried_into_the_users_rooms(alice: Client, bob: Client) -> None:
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    await bob.sync()
    await alice.put(f"/profile/{alice.user_id}/displayname", {"displayname": "Alice"})
    assert (await bob.get(f"/profile/{alice.user_id}"))["displayname"] == "Alice"
    body = await bob.sync(timeout=1000)
    event = body["rooms"]["join"][room_id]["timeline"]["events"][-1]
    assert event["content"] == {"membership": "join", "displayname": "Alice"}
    assert event["unsigned"]["prev_content"] == {"membership": "join", "displayname": "alice"}


async def test_name_that_did_not_reach_a_room_does_when_it_is_set_again(
    alice: Client, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overloaded(proposal: object) -> None:
        raise unavailable("The server is overloaded")

    room_id = await alice.create_room()
    member = f"/rooms/{room_id}/state/m.room.member/{alice.user_id}"
    with monkeypatch.context() as patched:
        patched.setattr(server.app.ground.rooms.writers[0], "submit", overloaded)
        path = f"/profile/{alice.user_id}/displayname"
        await alice.call("PUT", path, {"displayname": "Alice"}, expect=503)
        assert (await alice.get(member))["displayname"] == "alice"
    await alice.put(f"/profile/{alice.user_id}/displayname", {"displayname": "Alice"})
    assert (await alice.get(member))["displayname"] == "Alice"


async def test_profile_takes_any_field_within_its_bounds(alice: Client) -> None:
    path = f"/profile/{alice.user_id}"
    await alice.put(f"{path}/org.example.mood", {"org.example.mood": {"is": "fine"}})
    assert (await alice.get(f"{path}/org.example.mood")) == {"org.example.mood": {"is": "fine"}}
    await alice.delete(f"{path}/org.example.mood")
    await alice.call("GET", f"{path}/org.example.mood", expect=404)
    large = {"org.example.big": "x" * 70_000}
    reply = await alice.call("PUT", f"{path}/org.example.big", large, expect=400)
    assert reply.errcode == "M_PROFILE_TOO_LARGE"
    reply = await alice.call("PUT", f"{path}/{'k' * 300}", {"k" * 300: 1}, expect=400)
    assert reply.errcode == "M_KEY_TOO_LARGE"


@pytest.mark.parametrize("key", ["mood of today", "org.example.Mood", "_mood", "1st.mood", "stimmung.über"])
async def test_profile_field_needs_a_name_that_may_be_one(alice: Client, key: str) -> None:
    path = f"/profile/{alice.user_id}"
    reply = await alice.call("PUT", f"{path}/{quote(key)}", {key: "fine"}, expect=400)
    assert reply.errcode == "M_INVALID_PARAM"
    assert await alice.get(path) == {"displayname": "alice"}
    for named in ("org.example.mood-of_today2", "m.tz"):
        await alice.put(f"{path}/{named}", {named: "fine"})


async def test_profile_field_may_be_null_and_names_are_strings(alice: Client) -> None:
    path = f"/profile/{alice.user_id}"
    await alice.put(f"{path}/org.example.mood", {"org.example.mood": "fine"})
    await alice.put(f"{path}/org.example.mood", {"org.example.mood": None})
    assert await alice.get(f"{path}/org.example.mood") == {"org.example.mood": None}
    for key in ("displayname", "avatar_url"):
        reply = await alice.call("PUT", f"{path}/{key}", {key: None}, expect=400)
        assert reply.errcode == "M_BAD_JSON"
    assert await alice.get(path) == {"displayname": "alice", "org.example.mood": None}


async def test_profile_tells_a_number_from_a_truth_value(alice: Client) -> None:
    path = f"/profile/{alice.user_id}/org.example.flag"
    for value in (1, True, 0, False):
        await alice.put(path, {"org.example.flag": value})
        assert repr((await alice.get(path))["org.example.flag"]) == repr(value)


async def test_blocked_invites_are_refused_and_hidden(alice: Client, bob: Client) -> None:
    early = await alice.create_room()
    await alice.invite(early, bob.user_id)
    await bob.put(f"/user/{bob.user_id}/account_data/m.invite_permission_config", {"default_action": "block"})
    room_id = await alice.create_room()
    reply = await alice.call("POST", f"/rooms/{room_id}/invite", {"user_id": bob.user_id}, expect=403)
    assert reply.errcode == "M_INVITE_BLOCKED"
    reply = await alice.call(
        "PUT", f"/rooms/{room_id}/state/m.room.member/{bob.user_id}", {"membership": "invite"}, expect=403
    )
    assert reply.errcode == "M_INVITE_BLOCKED"
    assert "invite" not in (await bob.sync()).get("rooms", {})
