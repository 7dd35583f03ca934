"""What a user is told of a room around joining, leaving and forgetting it (spec: "Room membership")."""

import asyncio
from typing import Any
from urllib.parse import quote

import pytest

from homeserver.errors import MatrixError
from homeserver.rooms import membership
from storage.errors import StoreUnavailable
from tests.client_api.conftest import Client, Server

ARCHIVED = {"room": {"include_leave": True}}


def rooms(body: Any, kind: str) -> Any:
    return body.get("rooms", {}).get(kind, {})


async def test_changes_of_a_profile_that_cross_leave_the_rooms_with_all_of_it(
    alice: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client sets name and picture at once, and another replica may be faster with the second."""
    room_id = await alice.create_room()
    picture = {"avatar_url": "mxc://localhost/picture"}
    post = membership.post

    async def overtaken(*args: Any) -> list[str]:
        monkeypatch.undo()
        await alice.put(f"/profile/{alice.user_id}/avatar_url", picture)
        return await post(*args)

    monkeypatch.setattr(membership, "post", overtaken)
    await alice.put(f"/profile/{alice.user_id}/displayname", {"displayname": "Alicia"})
    member = await alice.get(f"/rooms/{room_id}/state/m.room.member/{alice.user_id}")
    assert member == {"membership": "join", "displayname": "Alicia", **picture}


async def test_name_that_a_room_could_not_be_told_of_is_not_said_to_be_set(
    server: Server, alice: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    room_id = await alice.create_room()
    path, name = f"/profile/{alice.user_id}/displayname", {"displayname": "Alicia"}

    async def away(*args: Any) -> int:
        raise StoreUnavailable("away")

    with monkeypatch.context() as patched:
        patched.setattr(server.app.store.log, "append", away)
        await alice.call("PUT", path, name, expect=503)
    await alice.put(path, name)
    member = await alice.get(f"/rooms/{room_id}/state/m.room.member/{alice.user_id}")
    assert member["displayname"] == "Alicia"


async def test_rejected_invite_is_told_as_a_leave(alice: Client, bob: Client) -> None:
    room_id = await alice.create_room()
    await alice.send(room_id, "not for bob")
    await alice.invite(room_id, bob.user_id)
    await bob.sync()
    await bob.leave(room_id)
    (event,) = rooms(await bob.sync(), "leave")[room_id]["timeline"]["events"]
    assert (event["state_key"], event["content"]["membership"]) == (bob.user_id, "leave")
    assert (await bob.call("GET", f"/rooms/{room_id}/messages?dir=b", expect=403)).errcode == "M_FORBIDDEN"


async def test_leave_is_told_to_those_only_who_want_such_events(alice: Client, bob: Client) -> None:
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    await bob.sync()
    said = await alice.send(room_id, "before")
    await bob.leave(room_id)
    messages = {"types": ["m.room.message"]}
    wanted = {"room": {"include_leave": True, "timeline": messages, "state": messages}}
    for body in (await bob.sync(filter=wanted), await bob.sync(full=True, filter=wanted)):
        section = rooms(body, "leave")[room_id]
        assert [event["event_id"] for event in section["timeline"]["events"]] == [said]
        assert section["state"]["events"] == []


async def test_rejected_invite_is_told_when_full_state_is_asked_for(alice: Client, bob: Client) -> None:
    room_id = await alice.create_room(invite=[bob.user_id])
    await bob.sync()
    await bob.leave(room_id)
    assert room_id in rooms(await bob.sync(full_state="true"), "leave")
    assert room_id not in rooms(await bob.sync(full_state="true"), "leave")


async def test_leave_reaches_a_device_though_another_forgot_the_room_at_once(
    alice: Client, bob: Client
) -> None:
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    await bob.sync()
    await bob.leave(room_id)
    await bob.post(f"/rooms/{room_id}/forget")
    await alice.send(room_id, "later")
    (event,) = rooms(await bob.sync(), "leave")[room_id]["timeline"]["events"]
    assert event["content"]["membership"] == "leave"
    assert room_id not in rooms(await bob.sync(full=True, filter=ARCHIVED), "leave")


async def test_forgotten_room_has_no_history(alice: Client, bob: Client) -> None:
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    event_id = await alice.send(room_id, "hello")
    await bob.leave(room_id)
    await bob.get(f"/rooms/{room_id}/event/{event_id}")
    await bob.post(f"/rooms/{room_id}/forget")
    for path in ("messages?dir=b", "state", "members", "state/m.room.create/"):
        assert (await bob.call("GET", f"/rooms/{room_id}/{path}", expect=403)).errcode == "M_FORBIDDEN"
    for path in (f"event/{event_id}", f"context/{event_id}"):
        assert (await bob.call("GET", f"/rooms/{room_id}/{path}", expect=404)).errcode == "M_NOT_FOUND"


async def test_invite_to_a_forgotten_room_does_not_bring_its_history_back(alice: Client, bob: Client) -> None:
    room_id = await alice.create_room()
    await alice.invite(room_id, bob.user_id)
    await bob.join(room_id)
    event_id = await alice.send(room_id, "hello")
    await bob.leave(room_id)
    await bob.post(f"/rooms/{room_id}/forget")
    await alice.invite(room_id, bob.user_id)
    await bob.call("GET", f"/rooms/{room_id}/messages?dir=b", expect=403)
    await bob.join(room_id)
    page = await bob.get(f"/rooms/{room_id}/messages", query={"dir": "b", "limit": 50})
    assert event_id in [event["event_id"] for event in page["chunk"]]


async def test_events_tell_what_the_reader_was_at_the_time(alice: Client, bob: Client) -> None:
    room_id = await alice.create_room(preset="public_chat")
    before = await alice.send(room_id, "before")
    await alice.invite(room_id, bob.user_id)
    invited = await alice.send(room_id, "invited")
    await bob.join(room_id)
    after = await alice.send(room_id, "after")
    wanted = {before: "leave", invited: "invite", after: "join"}

    def told(events: Any) -> dict[str, str]:
        return {e["event_id"]: e["unsigned"]["membership"] for e in events if e["event_id"] in wanted}

    assert told(rooms(await bob.sync(), "join")[room_id]["timeline"]["events"]) == wanted
    page = await bob.get(f"/rooms/{room_id}/messages", query={"dir": "b", "limit": 50})
    assert told(page["chunk"]) == wanted
    body = rooms(await alice.sync(), "join")[room_id]["timeline"]["events"]
    assert set(told(body).values()) == {"join"}


async def test_timeline_of_a_room_joined_again_does_not_join_on_to_the_old_one(
    alice: Client, bob: Client
) -> None:
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    await bob.sync()
    await bob.leave(room_id)
    await bob.sync()
    missed = await alice.send(room_id, "missed")
    await bob.join(room_id)
    timeline = rooms(await bob.sync(filter={"room": {"timeline": {"limit": 50}}}), "join")[room_id][
        "timeline"
    ]
    assert timeline["limited"] is True
    assert timeline["events"][0]["type"] == "m.room.create"
    assert missed in [event["event_id"] for event in timeline["events"]]


async def test_room_joined_and_left_between_two_syncs_brings_its_state(alice: Client, bob: Client) -> None:
    room_id = await alice.create_room(preset="public_chat", name="Hall")
    await bob.sync()
    await alice.send(room_id, "one")
    await bob.join(room_id)
    await bob.leave(room_id)
    few = {"room": {"timeline": {"limit": 1}, "state": {"types": ["m.room.name"]}}}
    section = rooms(await bob.sync(filter=few), "leave")[room_id]
    assert [event["content"]["membership"] for event in section["timeline"]["events"]] == ["leave"]
    assert [event["content"] for event in section["state"]["events"]] == [{"name": "Hall"}]


async def test_join_carries_the_clients_own_content_but_not_what_the_server_decides(
    alice: Client, bob: Client
) -> None:
    room_id = await alice.create_room(preset="public_chat", room_alias_name="hall")
    body = {
        "org.example.why": "because",
        "reason": "curious",
        "membership": "ban",
        "displayname": "Alice",
        "join_authorised_via_users_server": alice.user_id,
    }
    await bob.post("/join/%23hall:localhost", body)
    content = await bob.get(f"/rooms/{room_id}/state/m.room.member/{bob.user_id}")
    assert content["org.example.why"] == "because"
    assert content["reason"] == "curious"
    assert content["membership"] == "join"
    assert content.get("displayname") != "Alice"
    assert "join_authorised_via_users_server" not in content


async def test_joiner_may_be_called_something_else_in_the_room(alice: Client, bob: Client) -> None:
    """A member event that a client writes says what it wants, before the user is in the room as after."""
    room_id = await alice.create_room(preset="public_chat")
    for name in ("The Builder", "Bobby"):
        await bob.set_state(
            room_id, "m.room.member", {"membership": "join", "displayname": name}, state_key=bob.user_id
        )
        content = await alice.get(f"/rooms/{room_id}/state/m.room.member/{bob.user_id}")
        assert content["displayname"] == name


async def test_kick_at_the_moment_of_a_ban_does_not_lift_it(
    server: Server, alice: Client, bob: Client, carol: Client
) -> None:
    room_id = await alice.create_room(preset="public_chat")
    for member in (bob, carol):
        await member.join(room_id)
    levels = await alice.get(f"/rooms/{quote(room_id)}/state/m.room.power_levels")
    levels["users"] = {**levels.get("users", {}), bob.user_id: 50}
    await alice.set_state(room_id, "m.room.power_levels", levels)
    membership = server.app.conversations.membership
    ban = membership.ban(room_id, alice.user_id, carol.user_id)
    kick = membership.kick(room_id, bob.user_id, carol.user_id)
    _, kicked = await asyncio.gather(ban, kick, return_exceptions=True)
    assert isinstance(kicked, MatrixError)
    assert kicked.status == 403
    member = await alice.get(f"/rooms/{quote(room_id)}/state/m.room.member/{quote(carol.user_id)}")
    assert member["membership"] == "ban"


async def test_new_name_at_the_moment_of_a_kick_does_not_join_again(
    server: Server, alice: Client, bob: Client
) -> None:
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    membership = server.app.conversations.membership
    kick = membership.kick(room_id, alice.user_id, bob.user_id)
    renamed = {"membership": "join", "displayname": "Bobby"}
    change = membership.put(room_id, bob.user_id, bob.user_id, renamed)
    _, changed = await asyncio.gather(kick, change, return_exceptions=True)
    assert isinstance(changed, MatrixError)
    assert changed.status == 403
    member = await alice.get(f"/rooms/{quote(room_id)}/state/m.room.member/{quote(bob.user_id)}")
    assert member["membership"] == "leave"
