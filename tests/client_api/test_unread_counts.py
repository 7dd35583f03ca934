"""Unread and highlight counts in /sync (spec: client-server "Receiving notifications")."""

import asyncio
from typing import Any

import pytest

from homeserver.push import unread as module
from storage.errors import StoreUnavailable
from tests.client_api.conftest import Client, Server

THREADED = {"room": {"timeline": {"unread_thread_notifications": True}}}


async def room_of_two(alice: Client, bob: Client, **options: Any) -> str:
    room_id = await alice.create_room(preset="public_chat", **options)
    await bob.join(room_id)
    carol = await alice.create_room()
    assert carol
    await bob.sync()
    return room_id


async def unread(client: Client, room_id: str, **options: Any) -> tuple[int, int]:
    body = await client.sync(full=True, **options)
    counts = body["rooms"]["join"][room_id]["unread_notifications"]
    return counts["notification_count"], counts["highlight_count"]


async def test_messages_count_until_they_are_read(alice: Client, bob: Client) -> None:
    room_id = await room_of_two(alice, bob)
    first = await alice.send(room_id)
    last = await alice.send(room_id)
    body = await bob.sync()
    assert body["rooms"]["join"][room_id]["unread_notifications"]["notification_count"] == 2
    await bob.post(f"/rooms/{room_id}/receipt/m.read/{first}")
    assert await unread(bob, room_id) == (1, 0)
    await bob.post(f"/rooms/{room_id}/receipt/m.read.private/{last}")
    assert await unread(bob, room_id) == (0, 0)


async def test_mention_highlights_only_the_one_mentioned(alice: Client, bob: Client, carol: Client) -> None:
    room_id = await room_of_two(alice, bob)
    await carol.join(room_id)
    await alice.send(room_id, {"msgtype": "m.text", "body": "hey", "m.mentions": {"user_ids": [bob.user_id]}})
    assert await unread(bob, room_id) == (1, 1)
    assert await unread(carol, room_id) == (1, 0)
    assert await unread(alice, room_id) == (0, 0)


async def test_levels_of_notifications_may_be_spelled_in_old_rooms(alice: Client, bob: Client) -> None:
    room_id = await room_of_two(alice, bob, room_version="9")
    levels = await alice.get(f"/rooms/{room_id}/state/m.room.power_levels")
    levels["notifications"] = {"room": "0"}
    await alice.put(f"/rooms/{room_id}/state/m.room.power_levels", levels)
    await bob.send(room_id, {"msgtype": "m.text", "body": "hey", "m.mentions": {"room": True}})
    assert await unread(alice, room_id) == (1, 1)


async def test_writing_marks_what_stands_before_as_read(alice: Client, bob: Client) -> None:
    room_id = await room_of_two(alice, bob)
    await alice.send(room_id)
    await bob.send(room_id)
    assert await unread(bob, room_id) == (0, 0)


async def test_what_is_redacted_counts_no_more(alice: Client, bob: Client) -> None:
    room_id = await room_of_two(alice, bob)
    mention = {"msgtype": "m.text", "body": "hey", "m.mentions": {"user_ids": [bob.user_id]}}
    kept, taken_back = await alice.send(room_id), await alice.send(room_id, mention)
    reply = {
        "msgtype": "m.text",
        "body": "in a thread",
        "m.relates_to": {"rel_type": "m.thread", "event_id": kept},
    }
    threaded = await alice.send(room_id, reply)
    assert await unread(bob, room_id) == (3, 1)
    await alice.redact(room_id, taken_back)
    assert await unread(bob, room_id) == (2, 0)
    await alice.redact(room_id, threaded)
    assert await unread(bob, room_id) == (1, 0)
    listed = (await bob.get("/notifications"))["notifications"]
    assert kept in (ids := [each["event"]["event_id"] for each in listed])
    assert not {taken_back, threaded} & set(ids)
    await bob.post(f"/rooms/{room_id}/receipt/m.read/{kept}")
    assert await unread(bob, room_id) == (0, 0)


async def test_threads_count_apart(alice: Client, bob: Client) -> None:
    room_id = await room_of_two(alice, bob)
    root = await alice.send(room_id, "root")
    relates = {"m.relates_to": {"rel_type": "m.thread", "event_id": root}}
    reply = await alice.send(room_id, {"msgtype": "m.text", "body": "in thread", **relates})
    section = (await bob.sync(full=True, filter=THREADED))["rooms"]["join"][room_id]
    assert section["unread_notifications"]["notification_count"] == 1
    # The main timeline is none of the threads.
    assert section["unread_thread_notifications"] == {root: {"highlight_count": 0, "notification_count": 1}}
    await bob.post(f"/rooms/{room_id}/receipt/m.read/{reply}", {"thread_id": root})
    section = (await bob.sync(full=True, filter=THREADED))["rooms"]["join"][room_id]
    assert section["unread_notifications"]["notification_count"] == 1
    assert "unread_thread_notifications" not in section
    assert await unread(bob, room_id) == (1, 0)


async def test_who_comes_back_has_nothing_unread_from_before(alice: Client, bob: Client) -> None:
    room_id = await room_of_two(alice, bob)
    relates = {"m.relates_to": {"rel_type": "m.thread", "event_id": await alice.send(room_id, "root")}}
    reply = {"msgtype": "m.text", "body": "in thread", **relates}
    await alice.send(room_id, reply)
    assert await unread(bob, room_id) == (2, 0)
    await bob.leave(room_id)
    await alice.send(room_id, reply)
    await bob.join(room_id)
    assert await unread(bob, room_id) == (0, 0)
    await alice.send(room_id, reply)
    assert await unread(bob, room_id) == (1, 0)


async def test_counts_are_the_same_after_a_restart(server: Server, alice: Client, bob: Client) -> None:
    room_id = await room_of_two(alice, bob)
    read = await alice.send(room_id)
    await bob.post(f"/rooms/{room_id}/receipt/m.read/{read}")
    for _ in range(3):
        await alice.send(room_id)
    await server.restart()
    again = server.client()
    again.token, again.user_id = bob.token, bob.user_id
    assert await unread(again, room_id) == (3, 0)


async def test_threads_count_the_same_after_a_change_of_name_and_a_restart(
    server: Server, alice: Client, bob: Client
) -> None:
    """The member event with the new name is no new join."""
    room_id = await room_of_two(alice, bob)
    root = await alice.send(room_id, "root")
    relates = {"m.relates_to": {"rel_type": "m.thread", "event_id": root}}
    await alice.send(room_id, {"msgtype": "m.text", "body": "in thread", **relates})
    await bob.put(f"/profile/{bob.user_id}/displayname", {"displayname": "Robert"})
    for _ in range(2):
        section = (await bob.sync(full=True, filter=THREADED))["rooms"]["join"][room_id]
        assert section["unread_thread_notifications"][root]["notification_count"] == 1
        await server.restart()


@pytest.fixture
def short_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backlog is long already at a few dozen events."""
    monkeypatch.setattr(module, "PAGE", 20)
    monkeypatch.setattr(module, "MAX_COUNTED", 40)
    monkeypatch.setattr(module, "STORED_EVERY", 30)


async def send_many(alice: Client, room_id: str, count: int) -> list[str]:
    return await asyncio.gather(*(alice.send(room_id, f"{n}") for n in range(count)))


@pytest.mark.usefixtures("short_memory")
async def test_long_backlog_counts_the_same_after_a_restart(
    server: Server, alice: Client, bob: Client
) -> None:
    room_id = await room_of_two(alice, bob)
    await alice.send(room_id, {"msgtype": "m.text", "body": "hey", "m.mentions": {"user_ids": [bob.user_id]}})
    for _ in range(4):
        await send_many(alice, room_id, 45)
        await bob.sync()
    assert await unread(bob, room_id) == (181, 1)
    await server.restart()
    assert await unread(bob, room_id) == (181, 1)
    await send_many(alice, room_id, 3)
    assert await unread(bob, room_id) == (184, 1)


@pytest.mark.usefixtures("short_memory")
async def test_backlog_that_was_read_meanwhile_is_forgotten(
    server: Server, alice: Client, bob: Client
) -> None:
    room_id = await room_of_two(alice, bob)
    for _ in range(3):
        sent = await send_many(alice, room_id, 40)
        await bob.sync()
    order = [event["event_id"] for event in (await bob.get(f"/rooms/{room_id}/messages?dir=b"))["chunk"]]
    assert set(order) <= set(sent)
    await bob.post(f"/rooms/{room_id}/receipt/m.read/{order[4]}")
    await server.restart()
    assert await unread(bob, room_id) == (4, 0)


@pytest.mark.usefixtures("short_memory")
async def test_backlog_counts_by_the_rules_of_now(server: Server, alice: Client, bob: Client) -> None:
    room_id = await room_of_two(alice, bob)
    for _ in range(3):
        await send_many(alice, room_id, 40)
        await bob.sync()
    await bob.put(f"/pushrules/global/room/{room_id}", {"actions": []})
    await server.restart()
    assert await unread(bob, room_id) == (0, 0)


async def test_who_was_away_for_hundreds_of_events_has_them_all_counted(
    server: Server, alice: Client, bob: Client
) -> None:
    room_id = await room_of_two(alice, bob)
    await alice.send(room_id, {"msgtype": "m.text", "body": "hey", "m.mentions": {"user_ids": [bob.user_id]}})
    await send_many(alice, room_id, 700)
    await server.restart()
    polls = await asyncio.gather(*(unread(bob, room_id) for _ in range(3)))
    assert polls == [(701, 1)] * 3
    assert await unread(bob, room_id) == (701, 1)


async def test_counts_are_there_again_once_the_store_can_be_read_again(
    server: Server, monkeypatch: pytest.MonkeyPatch, alice: Client, bob: Client
) -> None:
    room_id = await room_of_two(alice, bob)
    await send_many(alice, room_id, 50)
    await server.restart()
    stored = server.app.ground.rooms.stored
    page = stored.page

    async def failing(room_id: str, **options: Any) -> Any:
        if options["limit"] == module.PAGE:
            raise StoreUnavailable("away for a moment")
        return await page(room_id, **options)

    monkeypatch.setattr(stored, "page", failing)
    await bob.call("GET", "/sync", expect=503)
    monkeypatch.setattr(stored, "page", page)
    assert await unread(bob, room_id) == (50, 0)
