"""Paging through a room's past again and again, while things happen in it (spec: GET /messages)."""

from typing import Any

import pytest

from homeserver.rooms import room
from tests.client_api.conftest import Client


@pytest.fixture(autouse=True)
def few_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rooms drop all but their newest events, and keep little of what was read of the past."""
    monkeypatch.setattr(room, "TIMELINE_KEPT", 8)
    monkeypatch.setattr(room, "PAST_KEPT", 60)


async def read(
    client: Client, room_id: str, *, limit: int, direction: str = "b", start: str = ""
) -> list[Any]:
    """All the messages that there are in one direction, page by page."""
    query: dict[str, Any] = {"dir": direction, "limit": limit}
    if start:
        query["from"] = start
    found: list[Any] = []
    while True:
        page = await client.get(f"/rooms/{room_id}/messages", query=query)
        found += [event for event in page["chunk"] if event["type"] == "m.room.message"]
        if "end" not in page:
            return found
        query["from"] = page["end"]


def ids(events: list[Any]) -> list[str]:
    return [event["event_id"] for event in events]


@pytest.mark.parametrize("count", [40, 90])
async def test_pages_are_the_same_for_everyone_and_every_time(alice: Client, bob: Client, count: int) -> None:
    room_id = await alice.create_room(preset="public_chat")
    before = (await alice.sync())["next_batch"]
    sent = [await alice.send(room_id, f"{i}") for i in range(count)]
    await bob.join(room_id)
    for _ in range(2):
        for reader in (alice, bob):
            for limit in (7, 25):
                assert ids(await read(reader, room_id, limit=limit)) == sent[::-1]
                assert ids(await read(reader, room_id, limit=limit, direction="f", start=before)) == sent
        sent.append(await bob.send(room_id, "another"))


async def test_what_was_read_before_shows_what_happened_to_it_since(alice: Client, bob: Client) -> None:
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    sent = [await alice.send(room_id, f"{i}") for i in range(40)]
    assert ids(await read(bob, room_id, limit=10)) == sent[::-1]

    await alice.redact(room_id, sent[3])
    edit = {"msgtype": "m.text", "body": "*", "m.new_content": {"msgtype": "m.text", "body": "new"}}
    edit["m.relates_to"] = {"rel_type": "m.replace", "event_id": sent[5]}
    edited = await alice.send(room_id, edit)
    for _ in range(2):
        events = {event["event_id"]: event for event in await read(bob, room_id, limit=10)}
        assert events[sent[3]]["content"] == {}
        assert events[sent[3]]["unsigned"]["redacted_because"]["sender"] == alice.user_id
        assert events[sent[5]]["unsigned"]["m.relations"]["m.replace"]["event_id"] == edited
        assert "m.relations" not in events[sent[6]]["unsigned"]


async def test_reading_the_past_changes_neither_sync_nor_counts(alice: Client, bob: Client) -> None:
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    await bob.sync()
    since = bob.next_batch
    sent = [await alice.send(room_id, f"{i}") for i in range(30)]
    await read(alice, room_id, limit=20)
    for wanted in (10, 40):
        filter = {"room": {"timeline": {"limit": wanted}}}
        section = (await bob.sync(since=since, filter=filter))["rooms"]["join"][room_id]
        assert ids(section["timeline"]["events"]) == sent[-wanted:]
        assert section["timeline"]["limited"] is (wanted < len(sent))
        assert section["unread_notifications"]["notification_count"] == len(sent)


async def test_who_has_read_up_to_now_goes_on_when_more_is_said(alice: Client, bob: Client) -> None:
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    messages = f"/rooms/{room_id}/messages"
    query: dict[str, Any] = {"dir": "f", "limit": 10, "from": (await bob.sync())["next_batch"]}
    for _ in range(2):
        sent = [await alice.send(room_id, f"{i}") for i in range(13)]
        for wanted in (sent[:10], sent[10:]):
            page = await bob.get(messages, query=query)
            assert ids(page["chunk"]) == wanted
            query["from"] = page["end"]
        page = await bob.get(messages, query=query)
        assert page["chunk"] == []
        assert "end" not in page


async def test_nothing_comes_after_the_end_of_what_may_be_read(alice: Client, bob: Client) -> None:
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    start = (await bob.sync())["next_batch"]
    sent = await alice.send(room_id, "here")
    stop = (await alice.sync())["next_batch"]
    await alice.send(room_id, "later")
    page = await bob.get(f"/rooms/{room_id}/messages", query={"dir": "f", "from": start, "to": stop})
    assert ids(page["chunk"]) == [sent]
    assert "end" not in page
    await bob.leave(room_id)
    page = await bob.get(f"/rooms/{room_id}/messages", query={"dir": "f", "from": start})
    assert page["chunk"][-1]["content"]["membership"] == "leave"
    assert "end" not in page
