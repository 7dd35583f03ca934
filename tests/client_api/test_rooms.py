"""Creating rooms, membership, state, history (spec: client-server "Creation", "Room membership" …)."""

import asyncio
from typing import Any
from urllib.parse import quote

import pytest

from tests.client_api.conftest import Client, Server


async def state_of(client: Client, room_id: str, type: str, key: str = "") -> Any:
    return await client.get(f"/rooms/{room_id}/state/{type}/{key}")


@pytest.mark.parametrize(
    ("preset", "join_rule", "guests"),
    [
        ("private_chat", "invite", "can_join"),
        ("trusted_private_chat", "invite", "can_join"),
        ("public_chat", "public", None),
    ],
)
async def test_preset_sets_the_state_the_spec_says(
    alice: Client, preset: str, join_rule: str, guests: str | None
) -> None:
    room_id = await alice.create_room(preset=preset)
    assert (await state_of(alice, room_id, "m.room.join_rules"))["join_rule"] == join_rule
    visibility = await state_of(alice, room_id, "m.room.history_visibility")
    assert visibility["history_visibility"] == "shared"
    reply = await alice.call("GET", f"/rooms/{room_id}/state/m.room.guest_access", expect=None)
    assert (reply.body["guest_access"] if reply.status == 200 else None) == guests


@pytest.mark.parametrize("version", ["11", "12"])
async def test_invitees_of_a_trusted_private_chat_have_the_creators_power(
    alice: Client, bob: Client, version: str
) -> None:
    invited = {"invite": [bob.user_id], "room_version": version}
    room_id = await alice.create_room(preset="trusted_private_chat", **invited)
    users = (await state_of(alice, room_id, "m.room.power_levels"))["users"]
    create = await state_of(alice, room_id, "m.room.create")
    if version == "12":
        assert (users, create["additional_creators"]) == ({}, [bob.user_id])
    else:
        assert users == {alice.user_id: 100, bob.user_id: 100}
    other = await alice.create_room(preset="private_chat", **invited)
    assert bob.user_id not in (await state_of(alice, other, "m.room.power_levels"))["users"]
    assert "additional_creators" not in await state_of(alice, other, "m.room.create")


@pytest.mark.parametrize("version", [str(n) for n in range(1, 13)])
async def test_room_of_every_version_can_be_made_and_talked_in(
    alice: Client, bob: Client, version: str
) -> None:
    room_id = await alice.create_room(room_version=version, preset="public_chat", name="n")
    await bob.join(room_id)
    event_id = await bob.send(room_id, "hello")
    assert (await state_of(alice, room_id, "m.room.create"))["room_version"] == version
    page = await alice.get(f"/rooms/{room_id}/messages", query={"dir": "b", "limit": 1})
    assert page["chunk"][0]["event_id"] == event_id
    await alice.redact(room_id, event_id, reason="because")
    event = await bob.get(f"/rooms/{room_id}/event/{quote(event_id, safe='')}")
    assert event["content"] == {}
    assert event["unsigned"]["redacted_because"]["content"]["reason"] == "because"


async def test_unknown_room_version_is_refused(alice: Client) -> None:
    reply = await alice.call("POST", "/createRoom", {"room_version": "99"}, expect=400)
    assert reply.errcode == "M_UNSUPPORTED_ROOM_VERSION"


@pytest.mark.parametrize(
    "wishes",
    [
        {"power_level_content_override": {"users": {"@alice:localhost": 100}}},
        {"creation_content": {"additional_creators": "@bob:localhost"}},
        {"creation_content": {"additional_creators": ["bob"]}},
        {"room_version": "11", "name": "n", "power_level_content_override": {"events": {"m.room.name": 200}}},
    ],
)
async def test_room_whose_first_events_break_the_rules_is_not_made(alice: Client, wishes: Any) -> None:
    reply = await alice.call("POST", "/createRoom", wishes, expect=400)
    assert reply.errcode == "M_INVALID_ROOM_STATE"
    assert (await alice.get("/joined_rooms"))["joined_rooms"] == []


async def test_invited_user_sees_stripped_state_and_joins(alice: Client, bob: Client) -> None:
    room_id = await alice.create_room(name="Secret", invite=[bob.user_id], is_direct=True)
    body = await bob.sync()
    events = body["rooms"]["invite"][room_id]["invite_state"]["events"]
    by_type = {event["type"]: event["content"] for event in events if event["state_key"] == ""}
    assert by_type["m.room.name"] == {"name": "Secret"}
    by_member = {event["state_key"]: event for event in events if event["type"] == "m.room.member"}
    assert by_member[bob.user_id]["content"]["is_direct"] is True
    assert by_member[alice.user_id]["content"]["membership"] == "join", "who it is that invites"
    await bob.join(room_id)
    assert room_id in (await bob.sync())["rooms"]["join"]
    assert (await bob.get("/joined_rooms"))["joined_rooms"] == [room_id]


async def test_room_into_which_nobody_may_be_invited_is_not_made_half(alice: Client, bob: Client) -> None:
    wish = {"room_alias_name": "club", "invite": [bob.user_id], "room_version": "11"}
    closed = {**wish, "power_level_content_override": {"invite": 101}}
    refused = await alice.call("POST", "/createRoom", closed, expect=400)
    assert refused.errcode == "M_INVALID_ROOM_STATE"
    assert (await alice.get("/joined_rooms"))["joined_rooms"] == []
    room_id = await alice.create_room(**wish)
    assert list((await bob.sync())["rooms"]["invite"]) == [room_id]


async def test_uninvited_user_cannot_join_a_private_room(alice: Client, bob: Client) -> None:
    room_id = await alice.create_room()
    reply = await bob.call("POST", f"/rooms/{room_id}/join", {}, expect=403)
    assert reply.errcode == "M_FORBIDDEN"


async def test_banned_user_stays_out_until_unbanned(alice: Client, bob: Client) -> None:
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    await alice.post(f"/rooms/{room_id}/ban", {"user_id": bob.user_id, "reason": "spam"})
    await bob.call("POST", f"/rooms/{room_id}/join", {}, expect=403)
    await bob.call(
        "PUT", f"/rooms/{room_id}/send/m.room.message/1", {"msgtype": "m.text", "body": "x"}, expect=403
    )
    await alice.post(f"/rooms/{room_id}/unban", {"user_id": bob.user_id})
    await bob.join(room_id)


async def test_member_without_power_can_neither_kick_nor_set_state(alice: Client, bob: Client) -> None:
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    await bob.call("POST", f"/rooms/{room_id}/kick", {"user_id": alice.user_id}, expect=403)
    await bob.call("PUT", f"/rooms/{room_id}/state/m.room.name", {"name": "mine"}, expect=403)


async def test_knock_is_seen_answered_by_invite_and_joined(alice: Client, bob: Client) -> None:
    room_id = await alice.create_room(
        initial_state=[{"type": "m.room.join_rules", "content": {"join_rule": "knock"}}]
    )
    await bob.post(f"/knock/{room_id}", {"reason": "please"})
    body = await bob.sync()
    assert body["rooms"]["knock"][room_id]["knock_state"]["events"]
    await alice.invite(room_id, bob.user_id)
    await bob.join(room_id)


async def test_restricted_room_lets_members_of_the_allowed_room_in(
    alice: Client, bob: Client, carol: Client
) -> None:
    club = await alice.create_room(preset="public_chat")
    allow = [{"type": "m.room_membership", "room_id": club}]
    rule = {"join_rule": "restricted", "allow": allow}
    room_id = await alice.create_room(initial_state=[{"type": "m.room.join_rules", "content": rule}])
    await carol.call("POST", f"/rooms/{room_id}/join", {}, expect=403)
    await bob.join(club)
    await bob.join(room_id)
    member = await state_of(alice, room_id, "m.room.member", bob.user_id)
    assert member["join_authorised_via_users_server"] == alice.user_id


async def test_left_room_appears_once_in_leave_and_can_be_forgotten(alice: Client, bob: Client) -> None:
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    await bob.sync()
    await bob.call("POST", f"/rooms/{room_id}/forget", {}, expect=400)
    await bob.leave(room_id)
    section = (await bob.sync())["rooms"]["leave"][room_id]
    assert section["timeline"]["events"][-1]["content"]["membership"] == "leave"
    assert "rooms" not in await bob.sync()
    archived = {"room": {"include_leave": True}}
    assert room_id in (await bob.sync(full=True, filter=archived))["rooms"]["leave"]
    await bob.post(f"/rooms/{room_id}/forget")
    assert "leave" not in (await bob.sync(full=True, filter=archived)).get("rooms", {})


async def test_left_user_sees_no_state_after_leave(alice: Client, bob: Client) -> None:
    """HARDENING 21."""
    room_id = await alice.create_room(preset="public_chat", name="before")
    await bob.join(room_id)
    await bob.sync()
    await bob.leave(room_id)
    await alice.set_state(room_id, "m.room.name", {"name": "after"})
    secret = await alice.send(room_id, "secret")
    assert (await state_of(bob, room_id, "m.room.name")) == {"name": "before"}
    for client, membership in ((alice, "join"), (bob, "leave")):
        then = await state_of(bob, room_id, "m.room.member", client.user_id)
        assert then["membership"] == membership
    page = await bob.get(f"/rooms/{room_id}/messages", query={"dir": "b", "limit": 50})
    assert secret not in [event["event_id"] for event in page["chunk"]]
    section = (await bob.sync())["rooms"]["leave"][room_id]
    assert section["timeline"]["events"][-1]["state_key"] == bob.user_id
    await bob.call("GET", f"/rooms/{room_id}/event/{secret}", expect=404)


async def test_history_before_joining_follows_the_visibility_setting(alice: Client, bob: Client) -> None:
    for setting, sees in (("shared", True), ("joined", False), ("world_readable", True), ("invited", False)):
        room_id = await alice.create_room(
            preset="public_chat",
            initial_state=[{"type": "m.room.history_visibility", "content": {"history_visibility": setting}}],
        )
        early = await alice.send(room_id, "early")
        await bob.join(room_id)
        page = await bob.get(f"/rooms/{room_id}/messages", query={"dir": "b", "limit": 50})
        assert (early in [event["event_id"] for event in page["chunk"]]) is sees, setting
        body = await bob.sync(full=True)
        events = body["rooms"]["join"][room_id]["timeline"]["events"]
        assert (early in [event["event_id"] for event in events]) is sees, setting


async def test_stranger_peeks_only_into_world_readable_rooms(alice: Client, bob: Client) -> None:
    closed = await alice.create_room(preset="public_chat")
    setting = {"history_visibility": "world_readable"}
    open_room = await alice.create_room(
        initial_state=[{"type": "m.room.history_visibility", "content": setting}]
    )
    await bob.call("GET", f"/rooms/{closed}/messages?dir=b", expect=403)
    await bob.call("GET", f"/rooms/{closed}/state", expect=403)
    assert (await bob.get(f"/rooms/{open_room}/messages", query={"dir": "b"}))["chunk"]


async def test_messages_page_both_ways_without_gap_or_repeat(alice: Client) -> None:
    room_id = await alice.create_room()
    sent = [await alice.send(room_id, f"{i}") for i in range(25)]
    for direction in ("b", "f"):
        found: list[str] = []
        query: dict[str, Any] = {"dir": direction, "limit": 7}
        for _ in range(10):
            page = await alice.get(f"/rooms/{room_id}/messages", query=query)
            found += [event["event_id"] for event in page["chunk"] if event["type"] == "m.room.message"]
            if "end" not in page:
                break
            query["from"] = page["end"]
        assert found == (sent if direction == "f" else sent[::-1])


async def test_context_gives_events_around_and_state(alice: Client) -> None:
    room_id = await alice.create_room(name="n")
    sent = [await alice.send(room_id, f"{i}") for i in range(5)]
    body = await alice.get(f"/rooms/{room_id}/context/{sent[2]}", query={"limit": 4})
    assert body["event"]["event_id"] == sent[2]
    assert [event["event_id"] for event in body["events_before"]] == sent[1::-1]
    assert [event["event_id"] for event in body["events_after"]] == sent[3:]
    assert {"m.room.name", "m.room.create"} <= {event["type"] for event in body["state"]}


async def test_event_of_another_room_is_not_found_in_this_one(alice: Client, bob: Client) -> None:
    """HARDENING 20: the object is authorised, not the path."""
    private = await alice.create_room()
    event_id = await alice.send(private, "secret")
    own = await bob.create_room()
    for path in (f"/rooms/{own}/event/{event_id}", f"/rooms/{own}/context/{event_id}"):
        reply = await bob.call("GET", path, expect=404)
        assert reply.errcode == "M_NOT_FOUND"


async def test_members_at_a_point_in_time(alice: Client, bob: Client) -> None:
    room_id = await alice.create_room(preset="public_chat")
    at = (await alice.sync())["next_batch"]
    await bob.join(room_id)
    now = await alice.get(f"/rooms/{room_id}/members")
    then = await alice.get(f"/rooms/{room_id}/members", query={"at": at})
    assert {event["state_key"] for event in now["chunk"]} == {alice.user_id, bob.user_id}
    assert {event["state_key"] for event in then["chunk"]} == {alice.user_id}
    joined = await alice.get(f"/rooms/{room_id}/joined_members")
    assert set(joined["joined"]) == {alice.user_id, bob.user_id}


async def test_joined_members_are_those_of_now_with_the_names_they_have_now(
    alice: Client, bob: Client
) -> None:
    room_id = await alice.create_room(preset="public_chat")
    path = f"/rooms/{room_id}/joined_members"
    for _ in range(2):
        assert set((await alice.get(path))["joined"]) == {alice.user_id}
    await bob.join(room_id)
    for name in ("Bob", "Robert"):
        await bob.put(f"/profile/{bob.user_id}/displayname", {"displayname": name})
        for client in (alice, bob):
            assert (await client.get(path))["joined"][bob.user_id]["display_name"] == name
    await bob.leave(room_id)
    assert set((await alice.get(path))["joined"]) == {alice.user_id}
    assert (await bob.call("GET", path, expect=403)).errcode == "M_FORBIDDEN"


async def test_timestamp_to_event_passes_over_all_that_is_hidden(alice: Client, bob: Client) -> None:
    """Who came in late jumps to a date before, who left to one after."""
    room_id = await alice.create_room(preset="public_chat")
    await alice.set_state(room_id, "m.room.history_visibility", {"history_visibility": "joined"})
    before = [await alice.send(room_id, "before") for _ in range(30)]
    await bob.join(room_id)
    joined = await bob.get(f"/rooms/{room_id}/state/m.room.member/{bob.user_id}?format=event")
    await bob.leave(room_id)
    left = await alice.get(f"/rooms/{room_id}/state/m.room.member/{bob.user_id}?format=event")
    after = [await alice.send(room_id, "after") for _ in range(30)]
    path = f"/_matrix/client/v1/rooms/{room_id}/timestamp_to_event"
    for far, direction, near in ((before[0], "f", joined), (after[-1], "b", left)):
        ts = (await alice.get(f"/rooms/{room_id}/event/{far}"))["origin_server_ts"]
        found = await bob.get(path, query={"ts": ts, "dir": direction})
        assert found["event_id"] == near["event_id"]


async def test_members_are_those_of_one_membership_or_not_of_another(alice: Client, bob: Client) -> None:
    room_id = await alice.create_room(preset="public_chat", invite=["@invited:localhost"])
    await bob.join(room_id)
    await bob.post(f"/rooms/{room_id}/leave")
    everybody = {alice.user_id: "join", bob.user_id: "leave", "@invited:localhost": "invite"}

    async def with_memberships(**query: str) -> set[str]:
        chunk = (await alice.get(f"/rooms/{room_id}/members", query=query))["chunk"]
        assert all(everybody[event["state_key"]] == event["content"]["membership"] for event in chunk)
        return {event["content"]["membership"] for event in chunk}

    assert await with_memberships() == {"join", "leave", "invite"}
    assert await with_memberships(membership="join") == {"join"}
    assert await with_memberships(not_membership="leave") == {"join", "invite"}
    assert await with_memberships(membership="join", not_membership="join") == {"join", "leave", "invite"}
    assert await with_memberships(membership="leave", not_membership="invite") == {"join", "leave"}
    assert await with_memberships(membership="invite", not_membership="leave") == {"join", "invite"}


async def test_timestamp_to_event_finds_the_nearest(alice: Client) -> None:
    room_id = await alice.create_room()
    event_id = await alice.send(room_id)
    event = await alice.get(f"/rooms/{room_id}/event/{event_id}")
    path = f"/_matrix/client/v1/rooms/{room_id}/timestamp_to_event"
    found = await alice.get(path, query={"ts": event["origin_server_ts"] + 5_000, "dir": "b"})
    assert found["event_id"] == event_id
    await alice.call("GET", f"{path}?ts={event['origin_server_ts'] + 5_000}&dir=f", expect=404)


async def test_setting_the_same_state_again_makes_no_event(alice: Client) -> None:
    room_id = await alice.create_room()
    first = await alice.set_state(room_id, "m.room.topic", {"topic": "t"})
    assert await alice.set_state(room_id, "m.room.topic", {"topic": "t"}) == first


async def test_replays_and_retries(alice: Client) -> None:
    """HARDENING 34: the same transaction many times at once is one event and one answer."""
    room_id = await alice.create_room()
    event_ids = await asyncio.gather(*(alice.send(room_id, "once", txn="same") for _ in range(10)))
    assert len(set(event_ids)) == 1
    page = await alice.get(f"/rooms/{room_id}/messages", query={"dir": "b", "limit": 50})
    assert [event["content"].get("body") for event in page["chunk"]].count("once") == 1


async def test_event_too_large_is_refused_and_leaves_nothing(alice: Client) -> None:
    room_id = await alice.create_room()
    large = {"msgtype": "m.text", "body": "x" * 70_000}
    reply = await alice.call("PUT", f"/rooms/{room_id}/send/m.room.message/1", large, expect=413)
    assert reply.errcode == "M_TOO_LARGE"
    page = await alice.get(f"/rooms/{room_id}/messages", query={"dir": "b", "limit": 1})
    assert page["chunk"][0]["type"] != "m.room.message"


@pytest.mark.parametrize("body", [b'{"a": 1.5}', b'{"a": 9007199254740993}', b'{"a": 1e400}', b"[1]", b"{"])
async def test_content_that_no_event_may_hold_is_refused(alice: Client, body: bytes) -> None:
    """HARDENING 8."""
    room_id = await alice.create_room()
    reply = await alice.call("PUT", f"/rooms/{room_id}/send/x.y/1", data=body, expect=400)
    assert reply.errcode in ("M_BAD_JSON", "M_NOT_JSON")


async def test_everything_is_there_after_a_restart(server: Server, alice: Client, bob: Client) -> None:
    room_id = await alice.create_room(preset="public_chat", name="kept")
    await bob.join(room_id)
    since = (await bob.sync())["next_batch"]
    event_id = await alice.send(room_id, "kept")
    await server.restart()
    again = server.client()
    again.token, again.next_batch = bob.token, since
    events = (await again.sync())["rooms"]["join"][room_id]["timeline"]["events"]
    assert [event["event_id"] for event in events] == [event_id]
    assert (await state_of(again, room_id, "m.room.name")) == {"name": "kept"}


async def test_unknown_paths_and_methods_are_unrecognized(alice: Client) -> None:
    assert (await alice.call("GET", "/no/such/path", expect=404)).errcode == "M_UNRECOGNIZED"
    assert (await alice.call("DELETE", "/sync", expect=405)).errcode == "M_UNRECOGNIZED"
    reply = await alice.call("OPTIONS", "/sync", expect=None)
    assert reply.headers["Access-Control-Allow-Origin"] == "*"
