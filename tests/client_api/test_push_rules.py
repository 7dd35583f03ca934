"""Push rules (spec: client-server "Push Rules: API"), and what becomes of them when a room is upgraded."""

import asyncio
from typing import Any
from urllib.parse import quote

import pytest

from tests.client_api.conftest import Client, Server

MUTE: dict[str, Any] = {"actions": []}
CAKE: dict[str, Any] = {"pattern": "cake*lie", "actions": ["notify"]}


def path(kind: str, rule_id: str, what: str = "") -> str:
    return f"/pushrules/global/{kind}/{quote(rule_id, safe='')}{what}"


def ids(rules: list[dict[str, Any]]) -> list[str]:
    return [rule["rule_id"] for rule in rules]


def own(rules: list[dict[str, Any]]) -> list[str]:
    return [rule["rule_id"] for rule in rules if not rule["default"]]


async def shown_in_sync(client: Client, **options: Any) -> dict[str, Any] | None:
    """The push rules among the global account data of the client's next sync."""
    events = (await client.sync(**options)).get("account_data", {}).get("events", [])
    return next((event["content"] for event in events if event["type"] == "m.push_rules"), None)


# --- Reading -------------------------------------------------------------------------------------------


async def test_a_new_user_has_the_default_rules_everywhere(alice: Client) -> None:
    everything = await alice.get("/pushrules/")
    assert set(everything["global"]) == {"override", "content", "room", "sender", "underride"}
    assert ids(everything["global"]["override"])[:2] == [".m.rule.master", ".m.rule.suppress_notices"]
    assert await alice.get("/pushrules/global/") == everything["global"]
    assert await alice.get(f"/user/{alice.user_id}/account_data/m.push_rules") == everything
    assert await shown_in_sync(alice) == everything
    assert await shown_in_sync(alice) is None


async def test_an_idle_incremental_sync_without_any_account_data_waits(alice: Client) -> None:
    await alice.sync()
    started = asyncio.get_running_loop().time()
    body = await alice.sync(timeout=200)
    assert "account_data" not in body
    assert asyncio.get_running_loop().time() - started >= 0.19


async def test_a_filter_can_keep_the_rules_out_of_the_first_sync(alice: Client) -> None:
    assert await shown_in_sync(alice, filter={"account_data": {"not_types": ["m.push_rules"]}}) is None


async def test_rules_of_a_kind_or_id_that_is_not_there(alice: Client) -> None:
    assert (await alice.call("GET", path("room", "!nowhere:localhost"), expect=404)).errcode == "M_NOT_FOUND"
    assert (await alice.call("GET", path("room", "!nowhere:localhost", "/enabled"), expect=404)).errcode
    assert (await alice.call("GET", path("misc", "x"), expect=404)).errcode == "M_NOT_FOUND"
    assert (await alice.call("PUT", path("misc", "x"), CAKE, expect=400)).errcode == "M_INVALID_PARAM"


async def test_guests_and_strangers_have_no_push_rules(server: Server) -> None:
    await server.client().call("GET", "/pushrules/", expect=401)


# --- Editing -------------------------------------------------------------------------------------------


async def test_a_rule_is_made_shown_changed_and_deleted(alice: Client) -> None:
    await alice.sync()
    await alice.put(path("content", "nocake"), CAKE)
    made = await alice.get(path("content", "nocake"))
    assert made == {"rule_id": "nocake", "default": False, "enabled": True, **CAKE}
    assert own((await alice.get("/pushrules/"))["global"]["content"]) == ["nocake"]
    in_sync = await shown_in_sync(alice)
    assert in_sync is not None
    assert in_sync == await alice.get("/pushrules/")

    await alice.put(path("content", "nocake", "/enabled"), {"enabled": False})
    assert await alice.get(path("content", "nocake", "/enabled")) == {"enabled": False}
    await alice.put(
        path("content", "nocake", "/actions"), {"actions": ["notify", {"set_tweak": "highlight"}]}
    )
    assert (await alice.get(path("content", "nocake", "/actions")))["actions"] == [
        "notify",
        {"set_tweak": "highlight"},
    ]
    # New parameters leave it switched off.
    await alice.put(path("content", "nocake"), {"pattern": "pie", "actions": ["notify"]})
    assert (await alice.get(path("content", "nocake")))["enabled"] is False

    await alice.delete(path("content", "nocake"))
    await alice.call("DELETE", path("content", "nocake"), expect=404)
    await alice.call("PUT", path("content", "nocake", "/enabled"), {"enabled": True}, expect=404)


async def test_before_and_after_place_a_rule_among_ones_own(alice: Client) -> None:
    for rule_id in ("c", "a"):
        await alice.put(path("override", rule_id), MUTE)
    await alice.put(path("override", "b") + "?before=c", MUTE)
    await alice.put(path("override", "d") + "?after=c", MUTE)
    rules = (await alice.get("/pushrules/"))["global"]["override"]
    assert own(rules) == ["a", "b", "c", "d"]
    assert ids(rules)[0] == ".m.rule.master"
    for anchor in ("before=.m.rule.master", "after=nobody"):
        reply = await alice.call("PUT", path("override", "e") + f"?{anchor}", MUTE, expect=400)
        assert reply.errcode == "M_UNKNOWN"


async def test_default_rules_can_be_changed_but_not_made_or_deleted(alice: Client) -> None:
    await alice.put(path("underride", ".m.rule.message", "/actions"), {"actions": []})
    await alice.put(path("override", ".m.rule.master", "/enabled"), {"enabled": True})
    rules = (await alice.get("/pushrules/"))["global"]
    assert next(rule for rule in rules["underride"] if rule["rule_id"] == ".m.rule.message")["actions"] == []
    assert rules["override"][0]["enabled"] is True
    await alice.call("PUT", path("override", ".mine"), MUTE, expect=400)
    await alice.call("DELETE", path("override", ".m.rule.master"), expect=400)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"actions": "notify"},
        {"actions": ["shout"]},
        {"actions": [], "pattern": 7},
        {"actions": [], "pattern": ""},
        {"actions": [], "pattern": "x" * 10_000},
    ],
)
async def test_what_is_no_content_rule_is_refused_and_changes_nothing(
    alice: Client, body: dict[str, Any]
) -> None:
    before = await alice.get("/pushrules/")
    await alice.call("PUT", path("content", "x"), body, expect=400)
    assert await alice.get("/pushrules/") == before


async def test_rule_ids_with_slashes_are_refused(alice: Client) -> None:
    for rule_id in ("a/b", "a\\b"):
        await alice.call("PUT", path("override", rule_id), MUTE, expect=400)


async def test_push_rules_survive_a_restart(server: Server, alice: Client) -> None:
    await alice.put(path("room", "!quiet:localhost"), MUTE)
    await server.restart()
    again = server.client()
    again.token = alice.token
    assert own((await again.get("/pushrules/"))["global"]["room"]) == ["!quiet:localhost"]


async def test_growth_by_small_writes_ends_at_a_limit(alice: Client) -> None:
    """HARDENING 14."""
    reply = None
    for number in range(101):
        reply = await alice.call("PUT", path("content", f"r{number}"), CAKE, expect=None)
    assert reply is not None
    assert (reply.status, reply.errcode) == (413, "M_TOO_LARGE")
    assert len(own((await alice.get("/pushrules/"))["global"]["content"])) == 100


async def test_rules_decide_what_counts_as_unread(alice: Client, bob: Client) -> None:
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    await bob.sync()
    await bob.put(path("room", room_id), MUTE)
    await alice.send(room_id, "hush")
    body = await bob.sync()
    assert body["rooms"]["join"][room_id]["unread_notifications"]["notification_count"] == 0


# --- Upgraded rooms ------------------------------------------------------------------------------------


async def settings_arrive(client: Client, room_id: str) -> dict[str, Any]:
    """The tags of a room, once there are any."""
    for _ in range(100):
        tags: dict[str, Any] = (await client.get(f"/user/{client.user_id}/rooms/{room_id}/tags"))["tags"]
        if tags:
            return tags
        await asyncio.sleep(0.02)
    raise AssertionError("no tags arrived")


async def test_who_joins_the_replacement_takes_tags_and_push_rules_along(alice: Client, bob: Client) -> None:
    old = await alice.create_room(preset="public_chat")
    await bob.join(old)
    await bob.put(path("room", old), MUTE)
    about_room = {"kind": "event_match", "key": "room_id", "pattern": old}
    await bob.put(path("override", old), {"conditions": [about_room], "actions": []})
    await bob.put(path("override", old, "/enabled"), {"enabled": False})
    await bob.put(f"/user/{bob.user_id}/account_data/m.direct", {alice.user_id: [old], "@c:d": ["!x:y"]})
    await bob.put(f"/user/{bob.user_id}/rooms/{old}/tags/m.favourite", {"order": 0.5})
    new = (await alice.post(f"/rooms/{old}/upgrade", {"new_version": "12"}))["replacement_room"]
    await bob.join(new)
    assert await settings_arrive(bob, new) == {"m.favourite": {"order": 0.5}}
    for _ in range(100):
        direct = await bob.get(f"/user/{bob.user_id}/account_data/m.direct")
        if new in direct[alice.user_id]:
            break
        await asyncio.sleep(0.02)
    assert direct == {alice.user_id: [old, new], "@c:d": ["!x:y"]}
    rules = (await bob.get("/pushrules/"))["global"]
    assert own(rules["room"]) == [old, new]
    muted = next(rule for rule in rules["override"] if rule["rule_id"] == new)
    assert muted["conditions"] == [{"kind": "event_match", "key": "room_id", "pattern": new}]
    assert muted["enabled"] is False


async def test_a_room_that_only_claims_to_replace_another_gets_nothing(
    server: Server, alice: Client, bob: Client
) -> None:
    old = await bob.create_room()
    await bob.put(f"/user/{bob.user_id}/rooms/{old}/tags/m.favourite", {})
    await bob.put(path("room", old), MUTE)
    claim = {"predecessor": {"room_id": old, "event_id": "$x"}}
    new = await alice.create_room(preset="public_chat", creation_content=claim)
    await bob.join(new)
    for consumer in server.app.ground.consumers:
        await consumer.settled(0)
    assert (await bob.get(f"/user/{bob.user_id}/rooms/{new}/tags"))["tags"] == {}
    assert own((await bob.get("/pushrules/"))["global"]["room"]) == [old]


async def test_a_change_of_profile_does_not_bring_removed_tags_back(
    server: Server, alice: Client, bob: Client
) -> None:
    old = await alice.create_room(preset="public_chat")
    await bob.join(old)
    await bob.put(path("room", old), MUTE)
    await bob.put(f"/user/{bob.user_id}/rooms/{old}/tags/m.favourite", {})
    new = (await alice.post(f"/rooms/{old}/upgrade", {"new_version": "12"}))["replacement_room"]
    await bob.join(new)
    await settings_arrive(bob, new)
    await bob.delete(path("room", new))
    await bob.delete(f"/user/{bob.user_id}/rooms/{new}/tags/m.favourite")
    await bob.put(f"/profile/{bob.user_id}/displayname", {"displayname": "Bobby"})
    for consumer in server.app.ground.consumers:
        await consumer.settled(0)
    assert (await bob.get(f"/user/{bob.user_id}/rooms/{new}/tags"))["tags"] == {}
    assert own((await bob.get("/pushrules/"))["global"]["room"]) == [old]


async def test_settings_follow_to_a_replacement_that_was_joined_before_the_tombstone(
    server: Server, alice: Client, bob: Client
) -> None:
    """Rooms are replaced by hand in this order, and by other servers' software."""
    old = await alice.create_room(preset="public_chat")
    await bob.join(old)
    await bob.put(path("room", old), MUTE)
    await bob.put(f"/user/{bob.user_id}/rooms/{old}/tags/m.favourite", {})
    new = await alice.create_room(
        preset="public_chat", creation_content={"predecessor": {"room_id": old, "event_id": "$x"}}
    )
    other = await alice.create_room(preset="public_chat")
    for room_id in (new, other):
        await bob.join(room_id)
    for replacement in (other, new):
        await alice.set_state(old, "m.room.tombstone", {"body": "moved", "replacement_room": replacement})
    for consumer in server.app.ground.consumers:
        await consumer.settled(0)
    assert own((await bob.get("/pushrules/"))["global"]["room"]) == [old, new]
    assert (await bob.get(f"/user/{bob.user_id}/rooms/{new}/tags"))["tags"] == {"m.favourite": {}}
    assert (await bob.get(f"/user/{bob.user_id}/rooms/{other}/tags"))["tags"] == {}
