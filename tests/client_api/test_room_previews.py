"""Looking into rooms, and what was before /sync (spec: client-server "Room Previews", "Syncing")."""

import asyncio
from typing import Any

import pytest

from homeserver.sync import event_stream as module
from tests.client_api.conftest import Client, Server

WORLD_READABLE = [{"type": "m.room.history_visibility", "content": {"history_visibility": "world_readable"}}]


def texts(events: list[dict[str, Any]]) -> list[str]:
    return [event["content"]["body"] for event in events if event["type"] == "m.room.message"]


async def guest(server: Server) -> Client:
    client = server.client()
    body = await client.post("/register?kind=guest", {})
    client.token, client.user_id, client.device_id = (
        body["access_token"],
        body["user_id"],
        body.get("device_id", ""),
    )
    return client


# --- Snapshots -----------------------------------------------------------------------------------------


async def test_a_room_snapshot_shows_state_last_events_and_account_data(alice: Client) -> None:
    room_id = await alice.create_room(preset="public_chat", visibility="public", name="n")
    for number in range(4):
        await alice.send(room_id, str(number))
    await alice.put(f"/user/{alice.user_id}/rooms/{room_id}/tags/m.favourite", {})
    body = await alice.get(f"/rooms/{room_id}/initialSync?limit=3")
    assert body["room_id"] == room_id
    assert body["membership"] == "join"
    assert body["visibility"] == "public"
    assert texts(body["messages"]["chunk"]) == ["1", "2", "3"]
    assert {event["type"] for event in body["state"]} >= {"m.room.create", "m.room.name"}
    assert body["account_data"] == [{"type": "m.tag", "content": {"tags": {"m.favourite": {}}}}]
    earlier = await alice.get(f"/rooms/{room_id}/messages?dir=b&limit=1&from={body['messages']['start']}")
    assert texts(earlier["chunk"]) == ["0"]
    later = await alice.get(f"/rooms/{room_id}/messages?dir=f&from={body['messages']['end']}")
    assert later["chunk"] == []


async def test_former_members_see_the_room_as_they_left_it(alice: Client, bob: Client, carol: Client) -> None:
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    await alice.send(room_id, "before")
    await bob.leave(room_id)
    await alice.send(room_id, "after")
    await alice.set_state(room_id, "m.room.name", {"name": "new"})
    body = await bob.get(f"/rooms/{room_id}/initialSync")
    assert body["membership"] == "leave"
    assert texts(body["messages"]["chunk"]) == ["before"]
    assert "m.room.name" not in {event["type"] for event in body["state"]}
    await carol.call("GET", f"/rooms/{room_id}/initialSync", expect=403)
    await carol.call("GET", f"/events?room_id={room_id}&timeout=0", expect=403)


async def test_the_snapshot_of_everything_has_rooms_invites_and_account_data(
    alice: Client, bob: Client
) -> None:
    joined = await alice.create_room(preset="public_chat")
    invited = await alice.create_room(invite=[bob.user_id])
    left = await alice.create_room(preset="public_chat")
    for room_id in (joined, left):
        await bob.join(room_id)
    await bob.leave(left)
    await alice.send(joined, "hi")
    await bob.put(f"/user/{bob.user_id}/account_data/org.example.x", {"a": 1})
    body = await bob.get("/initialSync?limit=1")
    rooms = {room["room_id"]: room for room in body["rooms"]}
    assert {room_id: room["membership"] for room_id, room in rooms.items()} == {
        joined: "join",
        invited: "invite",
    }
    assert texts(rooms[joined]["messages"]["chunk"]) == ["hi"]
    assert rooms[invited]["invite"]["sender"] == alice.user_id
    assert {event["type"] for event in body["account_data"]} == {"org.example.x", "m.push_rules"}
    archived = (await bob.get("/initialSync?archived=true"))["rooms"]
    assert {room["room_id"] for room in archived} == {joined, invited, left}


async def test_the_snapshot_hides_invites_that_are_not_wanted(
    alice: Client, bob: Client, carol: Client
) -> None:
    await alice.create_room(invite=[bob.user_id])
    by_carol = await carol.create_room(invite=[bob.user_id])

    async def invites() -> set[str]:
        return {room["room_id"] for room in (await bob.get("/initialSync"))["rooms"]}

    own = f"/user/{bob.user_id}/account_data"
    await bob.put(f"{own}/m.ignored_user_list", {"ignored_users": {alice.user_id: {}}})
    assert await invites() == {by_carol}
    await bob.put(f"{own}/m.invite_permission_config", {"default_action": "block"})
    assert await invites() == set()


# --- The stream ----------------------------------------------------------------------------------------


async def test_events_follow_the_snapshot_and_wait_for_more(alice: Client, bob: Client) -> None:
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    token = (await bob.get("/initialSync"))["end"]
    assert (await bob.get(f"/events?from={token}&timeout=0"))["chunk"] == []
    poll = asyncio.create_task(bob.get(f"/events?from={token}&timeout=10000"))
    await asyncio.sleep(0.1)
    await alice.send(room_id, "one")
    body = await poll
    assert texts(body["chunk"]) == ["one"]
    assert body["chunk"][0]["room_id"] == room_id
    assert body["start"] == token
    await alice.send(room_id, "two")
    assert texts((await bob.get(f"/events?from={body['end']}&timeout=0"))["chunk"]) == ["two"]


async def test_without_a_token_only_what_comes_is_shown(alice: Client) -> None:
    room_id = await alice.create_room()
    await alice.send(room_id, "old")
    poll = asyncio.create_task(alice.get("/events?timeout=10000"))
    await asyncio.sleep(0.1)
    await alice.send(room_id, "new")
    assert texts((await poll)["chunk"]) == ["new"]


async def test_pages_of_the_stream_join_without_gap_or_overlap(
    alice: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_EVENTS", 7)
    rooms = [await alice.create_room() for _ in range(2)]
    token = (await alice.get("/initialSync"))["end"]
    sent = [str(number) for number in range(30)]
    for number in sent:
        await alice.send(rooms[int(number) % 3 == 0], number)
    found: list[str] = []
    while True:
        body = await alice.get(f"/events?from={token}&timeout=0")
        if not body["chunk"]:
            break
        assert len(body["chunk"]) <= 7
        found += texts(body["chunk"])
        token = body["end"]
    assert found == sent


async def test_a_guest_looks_into_a_world_readable_room(server: Server, alice: Client) -> None:
    room_id = await alice.create_room(preset="public_chat", initial_state=WORLD_READABLE)
    visitor = await guest(server)
    body = await visitor.get(f"/rooms/{room_id}/initialSync")
    assert "membership" not in body
    token = body["messages"]["end"]
    poll = asyncio.create_task(visitor.get(f"/events?from={token}&room_id={room_id}&timeout=10000"))
    await asyncio.sleep(0.1)
    await alice.send(room_id, "hello, whoever looks in")
    body = await poll
    assert texts(body["chunk"]) == ["hello, whoever looks in"]
    # What is not world-readable any more is not shown, to a poll that waits already neither.
    poll = asyncio.create_task(
        visitor.call("GET", f"/events?from={body['end']}&room_id={room_id}&timeout=10000", expect=None)
    )
    await asyncio.sleep(0.1)
    await alice.set_state(room_id, "m.room.history_visibility", {"history_visibility": "joined"})
    await alice.send(room_id, "between us")
    assert "between us" not in str((await poll).body)
    await visitor.call("GET", f"/rooms/{room_id}/initialSync", expect=403)


async def test_a_kick_ends_what_the_stream_shows(alice: Client, bob: Client) -> None:
    """HARDENING 21."""
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    token = (await bob.get("/initialSync"))["end"]
    poll = asyncio.create_task(bob.get(f"/events?from={token}&timeout=1000"))
    await asyncio.sleep(0.1)
    await alice.post(f"/rooms/{room_id}/kick", {"user_id": bob.user_id})
    await alice.send(room_id, "gone at last")
    body = await poll
    assert texts(body["chunk"]) == []
    assert texts((await bob.get(f"/events?from={body['end']}&timeout=0"))["chunk"]) == []
    again = await bob.call("GET", f"/events?from={token}&room_id={room_id}&timeout=0", expect=None)
    assert "gone at last" not in str(again.body)


@pytest.fixture(params=["all rooms", "one room"])
async def stream(request: pytest.FixtureRequest, alice: Client) -> str:
    """The path of a poll with a minute's patience, from which nothing has happened."""
    room_id = await alice.create_room()
    where = "" if request.param == "all rooms" else f"&room_id={room_id}"
    return f"/events?timeout=60000{where}"


async def test_a_new_poll_of_a_device_ends_its_old_one(alice: Client, stream: str) -> None:
    old = asyncio.create_task(alice.get(stream))
    await asyncio.sleep(0.05)
    new = asyncio.create_task(alice.get(stream))
    assert (await asyncio.wait_for(old, 5))["chunk"] == []
    assert not new.done()
    new.cancel()


async def test_shutdown_answers_who_waits_at_once(server: Server, alice: Client, stream: str) -> None:
    poll = asyncio.create_task(alice.get(stream))
    await asyncio.sleep(0.05)
    await asyncio.wait_for(server.stop(), 10)
    assert (await poll)["chunk"] == []


async def test_a_single_event_is_for_those_who_may_see_it(alice: Client, bob: Client) -> None:
    room_id = await alice.create_room()
    event_id = await alice.send(room_id, "mine")
    event = await alice.get(f"/events/{event_id}")
    assert (event["room_id"], event["content"]["body"]) == (room_id, "mine")
    await bob.call("GET", f"/events/{event_id}", expect=404)
    await bob.call("GET", f"/events/${'A' * 43}", expect=404)


async def test_tokens_of_elsewhere_are_refused(alice: Client) -> None:
    await alice.call("GET", "/events?from=xyz&timeout=0", expect=400)
