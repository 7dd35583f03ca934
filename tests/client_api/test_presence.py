"""Presence over the API and in /sync (spec: client-server "Presence").

Time is the server's clock moved on by hand; what the background tasks do every few seconds is asked
for directly (`look`, `tell`).
"""

import asyncio
from collections import Counter
from typing import Any

import msgspec
import orjson
import pytest

from homeserver.presence import presence as presence_module
from homeserver.presence.presence import MAX_STATUS_BYTES
from homeserver.presence.user_presence import ACTIVE_FOR_MS, HERE_FOR_MS, IDLE_AFTER_MS
from homeserver.tasks import end
from tests.client_api.conftest import Client, Server


def path(client: Client) -> str:
    return f"/presence/{client.user_id}/status"


async def settle(server: Server, later_ms: int = 0) -> None:
    """Let `later_ms` pass, and have done what is due then."""
    presence = server.app.people.presence
    before = presence._now
    presence._now = lambda: before() + later_ms
    await presence.look()
    await presence.tell()


async def told(client: Client, **options: Any) -> dict[str, dict[str, Any]]:
    """The presence in the client's next sync, by user."""
    events = (await client.sync(**options)).get("presence", {}).get("events", [])
    return {event["sender"]: event["content"] for event in events}


@pytest.fixture
async def room(alice: Client, bob: Client) -> str:
    """A room of both."""
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    return room_id


# --- Asking and setting --------------------------------------------------------------------------------


async def test_status_is_shown_to_who_shares_a_room_only(
    room: str, alice: Client, bob: Client, carol: Client
) -> None:
    await alice.put(path(alice), {"presence": "online", "status_msg": "here"})
    for client in (alice, bob):
        status = await client.get(path(alice))
        assert status["presence"] == "online"
        assert status["currently_active"] is True
        assert status["status_msg"] == "here"
        assert status["last_active_ago"] < 60_000
    assert (await carol.call("GET", path(alice), expect=403)).errcode == "M_FORBIDDEN"
    assert (
        await carol.call("GET", "/presence/@nobody:localhost/status", expect=403)
    ).errcode == "M_FORBIDDEN"
    await bob.leave(room)
    await bob.call("GET", path(alice), expect=403)


async def test_another_users_presence_cannot_be_set(alice: Client, bob: Client) -> None:
    await alice.call("PUT", path(bob), {"presence": "online"}, expect=403)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"presence": "busy"},
        {"presence": "online", "status_msg": 7},
        {"presence": "online", "status_msg": "x" * (MAX_STATUS_BYTES + 1)},
    ],
)
async def test_what_is_no_presence_is_refused_and_changes_nothing(
    alice: Client, body: dict[str, Any]
) -> None:
    await alice.put(path(alice), {"presence": "unavailable", "status_msg": "before"})
    await alice.call("PUT", path(alice), body, expect=400)
    status = await alice.get(path(alice))
    assert (status["presence"], status["status_msg"]) == ("unavailable", "before")


async def test_a_status_without_a_message_takes_the_message_away(alice: Client) -> None:
    await alice.put(path(alice), {"presence": "online", "status_msg": "lunch"})
    await alice.put(path(alice), {"presence": "online"})
    assert "status_msg" not in await alice.get(path(alice))


# --- What /sync does to it -----------------------------------------------------------------------------


async def test_syncing_makes_online_unless_it_says_otherwise(alice: Client) -> None:
    await alice.sync(set_presence="offline")
    assert (await alice.get(path(alice)))["presence"] == "offline"
    await alice.sync(set_presence="unavailable")
    assert (await alice.get(path(alice)))["presence"] == "unavailable"
    await alice.sync()
    assert (await alice.get(path(alice)))["presence"] == "online"
    await alice.call("GET", "/sync?set_presence=dancing", expect=400)


async def test_who_does_not_sync_any_more_goes_offline(
    server: Server, room: str, alice: Client, bob: Client
) -> None:
    await alice.sync()
    await settle(server)
    assert (await told(bob))[alice.user_id]["presence"] == "online"
    await settle(server, HERE_FOR_MS)
    assert (await alice.get(path(alice)))["presence"] == "offline"
    content = (await told(bob))[alice.user_id]
    assert content["presence"] == "offline"
    assert content["last_active_ago"] >= HERE_FOR_MS
    assert "currently_active" not in content


async def test_a_long_poll_in_flight_counts_as_online(server: Server, alice: Client) -> None:
    await alice.sync()
    poll = asyncio.create_task(alice.sync(timeout=20_000))
    await asyncio.sleep(0.1)
    await settle(server, 4 * HERE_FOR_MS)
    assert (await alice.get(path(alice)))["presence"] == "online"
    server.app.ground.long_polls.close()
    poll.cancel()


async def test_who_does_nothing_becomes_unavailable_and_a_message_ends_that(
    server: Server, room: str, alice: Client, bob: Client
) -> None:
    await alice.sync()
    poll = asyncio.create_task(alice.sync(timeout=20_000))
    await asyncio.sleep(0.1)
    await settle(server, ACTIVE_FOR_MS)
    content = (await told(bob))[alice.user_id]
    assert (content["presence"], content["currently_active"]) == ("online", False)
    await settle(server, IDLE_AFTER_MS)
    assert (await told(bob))[alice.user_id]["presence"] == "unavailable"
    await alice.send(room, "back")
    await settle(server)
    content = (await told(bob))[alice.user_id]
    assert (content["presence"], content["currently_active"]) == ("online", True)
    assert content["last_active_ago"] < ACTIVE_FOR_MS
    poll.cancel()


async def test_a_receipt_is_activity_too(server: Server, room: str, alice: Client, bob: Client) -> None:
    event_id = await bob.send(room)
    await alice.sync()
    poll = asyncio.create_task(alice.sync(timeout=20_000))
    await asyncio.sleep(0.1)
    await settle(server, IDLE_AFTER_MS)
    assert (await alice.get(path(alice)))["presence"] == "unavailable"
    await alice.post(f"/rooms/{room}/receipt/m.read/{event_id}")
    assert (await alice.get(path(alice)))["presence"] == "online"
    poll.cancel()


# --- Who is told ---------------------------------------------------------------------------------------


async def test_a_first_sync_shows_who_is_there_and_not_who_is_not(
    server: Server, room: str, alice: Client, bob: Client, carol: Client
) -> None:
    await carol.join(room)
    await alice.put(path(alice), {"presence": "unavailable", "status_msg": "tea"})
    await carol.put(path(carol), {"presence": "offline"})
    await settle(server)
    seen = await told(bob)
    assert set(seen) == {alice.user_id}
    assert seen[alice.user_id]["status_msg"] == "tea"


async def test_of_many_rooms_each_is_looked_at_once_however_many_are_online(
    server: Server, monkeypatch: pytest.MonkeyPatch, alice: Client, bob: Client, carol: Client
) -> None:
    """Also of rooms that are not in memory, where those who are online are."""
    rooms = [await alice.create_room(preset="public_chat") for _ in range(5)]
    await bob.join(rooms[2])
    others = [await server.register(f"stranger{n}") for n in range(10)]
    for client in (alice, bob, carol, *others):
        await client.put(path(client), {"presence": "online"})
    await settle(server)
    stored, looked_up = server.app.rooms, 0
    cached = stored.cached

    def counted(room_id: str) -> Any:
        nonlocal looked_up
        looked_up += 1
        return cached(room_id)

    user = await server.app.ground.users.get(alice.user_id)
    presence = server.app.people.presence
    monkeypatch.setattr(stored, "cached", counted)
    for drop in (False, True):
        if drop:
            for room_id in rooms:
                stored.drop(room_id)
        looked_up = 0
        events = presence.events(user, 0, lambda user_id: True)
        assert {orjson.loads(event)["sender"] for event in events} == {alice.user_id, bob.user_id}
        assert looked_up == len(rooms)


async def test_a_change_wakes_who_shares_a_room_and_nobody_else(
    server: Server, room: str, alice: Client, bob: Client, carol: Client
) -> None:
    await bob.sync()
    await carol.sync()
    await settle(server)
    await bob.sync()
    await carol.sync()
    poll = asyncio.create_task(told(bob, timeout=10_000))
    other = asyncio.create_task(told(carol, timeout=700))
    await asyncio.sleep(0.1)
    await alice.put(path(alice), {"presence": "online"})
    await settle(server)
    assert set(await poll) == {alice.user_id}
    assert await other == {}


async def test_those_who_are_woken_are_not_all_answered_in_one_turn(
    server: Server, monkeypatch: pytest.MonkeyPatch, room: str, alice: Client
) -> None:
    others = [await server.register(f"other{n}") for n in range(50)]
    for client in others:
        await client.join(room)
        await client.sync()
    await settle(server)
    for client in others:
        await client.sync()
    turn = 0
    woken: Counter[int] = Counter()
    stream = server.app.people.presence_stream
    events = stream.events

    def noted(*args: Any, **options: Any) -> list[bytes]:
        woken[turn] += 1
        return events(*args, **options)

    async def count_turns() -> None:
        nonlocal turn
        while True:
            turn += 1
            await asyncio.sleep(0)

    polls = [asyncio.create_task(told(client, timeout=10_000)) for client in others]
    await asyncio.sleep(0.3)
    counting = asyncio.create_task(count_turns())
    monkeypatch.setattr(stream, "events", noted)
    await alice.put(path(alice), {"presence": "online"})
    await settle(server)
    assert all(alice.user_id in presence for presence in await asyncio.gather(*polls))
    await end((counting,))
    assert max(woken.values()) <= 25


async def test_coming_and_going_within_a_moment_is_nobodys_business(
    server: Server, room: str, alice: Client, bob: Client
) -> None:
    await alice.put(path(alice), {"presence": "unavailable"})
    await settle(server)
    await told(bob)
    for state in ("online", "offline", "unavailable"):
        await alice.put(path(alice), {"presence": state})
    await settle(server)
    assert alice.user_id not in await told(bob)


async def test_a_new_message_of_somebody_active_is_told_without_waiting_to_be_looked_for(
    server: Server, room: str, alice: Client, bob: Client
) -> None:
    await alice.put(path(alice), {"presence": "online", "status_msg": "old"})
    await settle(server)
    await told(bob)
    await alice.put(path(alice), {"presence": "online", "status_msg": "new"})
    await server.app.people.presence.tell()
    assert (await told(bob))[alice.user_id]["status_msg"] == "new"


async def test_who_joins_a_room_is_shown_its_members_and_they_the_newcomer(
    server: Server, alice: Client, bob: Client
) -> None:
    for client in (alice, bob):
        await client.put(path(client), {"presence": "online"})
    await settle(server)
    for client in (alice, bob):
        await client.sync()
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    await settle(server)
    assert alice.user_id in await told(bob)
    assert bob.user_id in await told(alice)


@pytest.mark.parametrize("as_what", ["offline", "online"])
async def test_whoever_joins_is_told_who_is_there_with_the_room(
    server: Server, alice: Client, bob: Client, as_what: str
) -> None:
    """Be it that they do not want to be seen themselves."""
    room_id = await alice.create_room(preset="public_chat")
    await alice.put(path(alice), {"presence": "online"})
    await settle(server)
    await bob.sync(set_presence=as_what)
    await bob.join(room_id)
    assert (await told(bob, set_presence=as_what))[alice.user_id]["presence"] == "online"
    await settle(server)
    assert alice.user_id not in await told(bob, set_presence=as_what), "it has not changed"


async def test_a_new_name_or_picture_is_told_as_presence(
    server: Server, room: str, alice: Client, bob: Client
) -> None:
    await alice.put(path(alice), {"presence": "online"})
    await settle(server)
    assert (await told(bob))[alice.user_id]["displayname"] == "alice"
    await alice.put(f"/profile/{alice.user_id}/displayname", {"displayname": "Alice"})
    await alice.put(f"/profile/{alice.user_id}/avatar_url", {"avatar_url": "mxc://localhost/face"})
    await settle(server)
    content = (await told(bob))[alice.user_id]
    assert (content["displayname"], content["avatar_url"]) == ("Alice", "mxc://localhost/face")


async def test_filters_and_ignored_users_are_left_out(
    server: Server, room: str, alice: Client, bob: Client
) -> None:
    await alice.put(path(alice), {"presence": "online"})
    await settle(server)
    assert await told(bob, filter={"presence": {"not_types": ["*"]}}) == {}
    assert await told(bob, full=True, filter={"presence": {"not_senders": [alice.user_id]}}) == {}
    ignored: dict[str, Any] = {"ignored_users": {alice.user_id: {}}}
    await bob.put(f"/user/{bob.user_id}/account_data/m.ignored_user_list", ignored)
    assert alice.user_id not in await told(bob, full=True)


async def test_the_server_tells_and_looks_by_itself(
    server: Server, monkeypatch: pytest.MonkeyPatch, room: str, alice: Client, bob: Client
) -> None:
    monkeypatch.setattr(presence_module, "TELL_AFTER_SECONDS", 0.01)
    await bob.sync()
    await settle(server)
    await bob.sync()
    poll = asyncio.create_task(told(bob, timeout=10_000))
    await asyncio.sleep(0.05)
    await alice.put(path(alice), {"presence": "unavailable"})
    assert (await poll)[alice.user_id]["presence"] == "unavailable"


# --- What is kept --------------------------------------------------------------------------------------


async def test_message_and_last_activity_survive_a_restart(
    server: Server, room: str, alice: Client, bob: Client
) -> None:
    await alice.sync()
    await alice.put(path(alice), {"presence": "online", "status_msg": "away soon"})
    await settle(server)
    await told(bob)
    await server.restart()
    again, watcher = server.client(), server.client()
    again.token, again.user_id = alice.token, alice.user_id
    watcher.token, watcher.next_batch = bob.token, bob.next_batch
    # Nobody has come back yet; after a restart that is no reason to call them offline at once.
    assert (await watcher.get(path(alice)))["presence"] == "online"
    await settle(server, HERE_FOR_MS)
    content = (await told(watcher))[alice.user_id]
    assert (content["presence"], content["status_msg"]) == ("offline", "away soon")
    assert content["last_active_ago"] >= HERE_FOR_MS


async def test_what_is_stored_is_written_at_most_once_a_minute(
    server: Server, room: str, alice: Client
) -> None:
    presence = server.app.people.presence
    await alice.sync()
    await settle(server)
    await presence.write()
    first = await presence._records.get(alice.user_id)
    assert first is not None
    await asyncio.sleep(0.01)
    await alice.send(room)
    await presence.write()
    assert await presence._records.get(alice.user_id) == first
    await settle(server, 60_000)
    await presence.write()
    later = await presence._records.get(alice.user_id)
    assert later is not None
    assert later.last_active > first.last_active


async def test_presence_can_be_switched_off(server: Server, alice: Client) -> None:
    config = msgspec.structs.replace(
        server.config, presence=msgspec.structs.replace(server.config.presence, enabled=False)
    )
    await server.restart(config)
    again = server.client()
    again.token, again.user_id = alice.token, alice.user_id
    await again.put(path(alice), {"presence": "online", "status_msg": "x"})
    await again.sync()
    assert await again.get(path(alice)) == {"presence": "offline"}
    assert "presence" not in await again.sync(full=True)
