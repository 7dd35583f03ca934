"""Member events can be written as any state is, and open no door that way (HARDENING 20).

What a client writes into it is not believed: the server signs the event, and so answers for who let
somebody in.
"""

from typing import Any
from urllib.parse import quote

import pytest

from tests.client_api.conftest import Client, Reply, Server


async def write(
    client: Client, room_id: str, user_id: str, content: dict[str, Any], status: int = 200
) -> Reply:
    path = f"/rooms/{quote(room_id)}/state/m.room.member/{quote(user_id)}"
    return await client.call("PUT", path, content, expect=status)


async def membership(client: Client, room_id: str, user_id: str) -> Any:
    path = f"/rooms/{quote(room_id)}/state/m.room.member/{quote(user_id)}"
    reply = await client.call("GET", path, expect=None)
    return reply.body.get("membership")


async def restricted_room(alice: Client, to: str) -> str:
    allow = [{"type": "m.room_membership", "room_id": to}]
    rule = {"type": "m.room.join_rules", "content": {"join_rule": "restricted", "allow": allow}}
    return await alice.create_room(preset="private_chat", initial_state=[rule])


async def test_nobody_authorises_their_own_join(alice: Client, bob: Client) -> None:
    """The authorising user's server signs a restricted join: that is this server, for whoever asks."""
    room_id = await restricted_room(alice, await alice.create_room())
    named = {"membership": "join", "join_authorised_via_users_server": alice.user_id}
    await write(bob, room_id, bob.user_id, named, 403)
    await bob.call("POST", f"/rooms/{quote(room_id)}/join", named, expect=403)
    assert await membership(alice, room_id, bob.user_id) is None


async def test_member_of_an_allowed_room_may_join_by_writing_the_event(alice: Client, bob: Client) -> None:
    hall = await alice.create_room(preset="public_chat")
    await bob.join(hall)
    room_id = await restricted_room(alice, hall)
    await write(bob, room_id, bob.user_id, {"membership": "join"})
    path = f"/rooms/{quote(room_id)}/state/m.room.member/{quote(bob.user_id)}"
    assert (await bob.get(path))["join_authorised_via_users_server"] == alice.user_id


async def test_guests_write_themselves_into_no_room_that_keeps_guests_out(
    server: Server, alice: Client
) -> None:
    guest = server.client()
    body = await guest.post("/register?kind=guest", {})
    guest.token, guest.user_id = body["access_token"], body["user_id"]
    closed = await alice.create_room(preset="public_chat")
    reply = await write(guest, closed, guest.user_id, {"membership": "join"}, 403)
    assert reply.errcode == "M_GUEST_ACCESS_FORBIDDEN"
    let_in = {"type": "m.room.guest_access", "content": {"guest_access": "can_join"}}
    opened = await alice.create_room(preset="public_chat", initial_state=[let_in])
    await write(guest, opened, guest.user_id, {"membership": "join"})
    await write(guest, opened, alice.user_id, {"membership": "invite"}, 403)
    await write(guest, opened, guest.user_id, {"membership": "leave"})


async def test_who_wants_no_invites_is_not_invited_by_a_new_rooms_state(alice: Client, bob: Client) -> None:
    await bob.put(
        f"/user/{quote(bob.user_id)}/account_data/m.invite_permission_config", {"default_action": "block"}
    )
    invite = {"type": "m.room.member", "state_key": bob.user_id, "content": {"membership": "invite"}}
    await alice.call("POST", "/createRoom", {"initial_state": [invite]}, expect=400)
    await write(alice, await alice.create_room(), bob.user_id, {"membership": "invite"}, 403)
    assert "rooms" not in await bob.sync(full=True)


@pytest.mark.parametrize("wanted", ["join", "knock"])
async def test_nobody_joins_or_knocks_for_others(alice: Client, bob: Client, wanted: str) -> None:
    room_id = await alice.create_room(preset="public_chat")
    await write(alice, room_id, bob.user_id, {"membership": wanted}, 403)


async def test_member_events_are_of_users_and_of_known_memberships(alice: Client, bob: Client) -> None:
    """HARDENING 9: what is not a user cannot be told to other servers."""
    room_id = await alice.create_room()
    for target in ("bob", "@bob", "@bob:", "!room:localhost", "x" * 200):
        reply = await write(alice, room_id, target, {"membership": "invite"}, 400)
        assert reply.errcode == "M_INVALID_PARAM"
    for wrong in ("friend", 1, None, ["join"]):
        content = {"membership": wrong}
        reply = await write(alice, room_id, bob.user_id, content, 400)
        assert reply.errcode == "M_BAD_JSON"


async def test_each_change_of_membership_can_be_written(alice: Client, bob: Client) -> None:
    room_id = await alice.create_room(preset="public_chat")
    for actor, target, content, then in (
        (alice, bob, {"membership": "invite", "reason": "tea"}, "invite"),
        (bob, bob, {"membership": "join"}, "join"),
        (bob, bob, {"membership": "leave"}, "leave"),
        (bob, bob, {"membership": "join"}, "join"),
        (alice, bob, {"membership": "leave", "reason": "noise"}, "leave"),
        (alice, bob, {"membership": "ban"}, "ban"),
        (alice, bob, {"membership": "leave"}, "leave"),
        (alice, bob, {"membership": "invite"}, "invite"),
        (bob, bob, {"membership": "leave"}, "leave"),
    ):
        event_id = (await write(actor, room_id, target.user_id, content)).body["event_id"]
        path = f"/rooms/{quote(room_id)}/state/m.room.member/{quote(target.user_id)}?format=event"
        event = await alice.get(path)
        assert (event["event_id"], event["content"]["membership"]) == (event_id, then)
        assert event["content"].get("reason") == content.get("reason")


async def test_knock_may_be_written_where_knocking_is_allowed(alice: Client, bob: Client) -> None:
    rule = {"type": "m.room.join_rules", "content": {"join_rule": "knock"}}
    room_id = await alice.create_room(initial_state=[rule])
    await write(bob, room_id, bob.user_id, {"membership": "knock", "reason": "tea"})
    assert await membership(alice, room_id, bob.user_id) == "knock"
    await write(bob, room_id, bob.user_id, {"membership": "join"}, 403)
    await write(bob, await alice.create_room(), bob.user_id, {"membership": "knock"}, 403)


async def test_members_call_themselves_what_they_like_in_a_room(alice: Client) -> None:
    room_id, other_room = await alice.create_room(), await alice.create_room()
    named = {"membership": "join", "displayname": "Alice of the tea", "org.example.hat": "blue"}
    first = (await write(alice, room_id, alice.user_id, named)).body["event_id"]
    assert (await write(alice, room_id, alice.user_id, named)).body["event_id"] == first
    path = f"state/m.room.member/{quote(alice.user_id)}"
    assert await alice.get(f"/rooms/{quote(room_id)}/{path}") == named
    assert (await alice.get(f"/rooms/{quote(other_room)}/{path}"))["displayname"] == "alice"
    wrongs: tuple[dict[str, Any], ...] = ({"displayname": 1}, {"avatar_url": []}, {"reason": {}})
    for wrong in wrongs:
        reply = await write(alice, room_id, alice.user_id, {"membership": "join", **wrong}, 400)
        assert reply.errcode == "M_BAD_JSON"
