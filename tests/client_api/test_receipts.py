"""Receipts, read markers, typing (spec: client-server "Receipts", "Read markers", "Typing")."""

import asyncio
from typing import Any

import pytest

from tests.client_api.conftest import Client, Server


def ephemeral(body: dict, room_id: str, type: str) -> dict | None:
    events = body.get("rooms", {}).get("join", {}).get(room_id, {}).get("ephemeral", {}).get("events", [])
    return next((event["content"] for event in events if event["type"] == type), None)


async def room_of_two(alice: Client, bob: Client) -> str:
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    await alice.sync()
    await bob.sync()
    return room_id


async def test_public_receipt_is_seen_by_the_other_member(alice: Client, bob: Client) -> None:
    room_id = await room_of_two(alice, bob)
    event_id = await alice.send(room_id)
    await bob.post(f"/rooms/{room_id}/receipt/m.read/{event_id}")
    content = ephemeral(await alice.sync(timeout=1000), room_id, "m.receipt")
    assert content is not None
    assert bob.user_id in content[event_id]["m.read"]


async def test_private_receipt_is_shown_to_its_own_user_only(alice: Client, bob: Client) -> None:
    room_id = await room_of_two(alice, bob)
    event_id = await alice.send(room_id)
    await alice.sync()
    await bob.post(f"/rooms/{room_id}/receipt/m.read.private/{event_id}")
    assert ephemeral(await alice.sync(), room_id, "m.receipt") is None
    content = ephemeral(await bob.sync(), room_id, "m.receipt")
    assert content is not None
    assert bob.user_id in content[event_id]["m.read.private"]


async def test_who_reads_in_private_does_not_see_who_else_does(alice: Client, bob: Client) -> None:
    room_id = await room_of_two(alice, bob)
    event_id = await alice.send(room_id)
    for client in (alice, bob):
        await client.post(f"/rooms/{room_id}/receipt/m.read.private/{event_id}")
    for client in (alice, bob):
        for full in (False, True):
            content = ephemeral(await client.sync(full=full), room_id, "m.receipt")
            assert content is not None
            assert content[event_id].keys() == {"m.read.private"}
            assert content[event_id]["m.read.private"].keys() == {client.user_id}


async def test_receipt_never_moves_backwards(alice: Client, bob: Client) -> None:
    room_id = await room_of_two(alice, bob)
    first, second = await alice.send(room_id), await alice.send(room_id)
    await bob.post(f"/rooms/{room_id}/receipt/m.read/{second}")
    await bob.post(f"/rooms/{room_id}/receipt/m.read/{first}")
    content = ephemeral(await alice.sync(), room_id, "m.receipt")
    assert content is not None
    assert list(content) == [second]


async def test_receipts_at_the_same_moment_leave_the_one_that_is_ahead(
    server: Server, alice: Client, bob: Client
) -> None:
    room_id = await room_of_two(alice, bob)
    first, second = await alice.send(room_id), await alice.send(room_id)
    receipts = server.app.conversations.receipts
    await asyncio.gather(
        receipts.mark(room_id, bob.user_id, "m.read", second),
        receipts.mark(room_id, bob.user_id, "m.read", first),
    )
    content = ephemeral(await alice.sync(), room_id, "m.receipt")
    assert content is not None
    assert list(content) == [second]


async def test_receipt_in_a_wrong_thread_is_refused(alice: Client, bob: Client) -> None:
    room_id = await room_of_two(alice, bob)
    event_id = await alice.send(room_id)
    path = f"/rooms/{room_id}/receipt/m.read/{event_id}"
    for thread in ("", "$other"):
        reply = await bob.call("POST", path, {"thread_id": thread}, expect=400)
        assert reply.errcode == "M_INVALID_PARAM"


async def test_thread_is_read_up_to_its_root_or_what_relates_to_it(alice: Client, bob: Client) -> None:
    room_id = await room_of_two(alice, bob)
    root = await alice.send(room_id, "root")
    reply, reference = [
        await alice.send(
            room_id,
            {"msgtype": "m.text", "body": "", "m.relates_to": {"rel_type": rel_type, "event_id": root}},
        )
        for rel_type in ("m.thread", "m.reference")
    ]
    likes = {"rel_type": "m.annotation", "event_id": reference, "key": "x"}
    reaction = await alice.send(room_id, {"m.relates_to": likes}, "m.reaction")
    other = await alice.send(room_id, "other")
    for event_id in (root, reply, reference, reaction):
        await bob.post(f"/rooms/{room_id}/receipt/m.read/{event_id}", {"thread_id": root})
    await bob.call("POST", f"/rooms/{room_id}/receipt/m.read/{other}", {"thread_id": root}, expect=400)
    await bob.call("POST", f"/rooms/{room_id}/receipt/m.read/{reply}", {"thread_id": "main"}, expect=400)
    content = ephemeral(await alice.sync(), room_id, "m.receipt")
    assert content is not None
    assert content[reaction]["m.read"][bob.user_id]["thread_id"] == root


@pytest.mark.parametrize("unthreaded_first", [True, False])
async def test_unthreaded_receipt_is_told_before_a_threaded_one_on_the_same_event(
    alice: Client, bob: Client, unthreaded_first: bool
) -> None:
    """There is room for one of them (MSC4102)."""
    room_id = await room_of_two(alice, bob)
    root = await alice.send(room_id, "root")
    relation = {"rel_type": "m.thread", "event_id": root}
    answer = await alice.send(room_id, {"msgtype": "m.text", "body": "x", "m.relates_to": relation})
    bodies = [{}, {"thread_id": root}] if unthreaded_first else [{"thread_id": root}, {}]
    for body in bodies:
        await bob.post(f"/rooms/{room_id}/receipt/m.read/{answer}", body)
    for full in (False, True):
        content = ephemeral(await alice.sync(full=full), room_id, "m.receipt")
        assert content is not None
        assert "thread_id" not in content[answer]["m.read"][bob.user_id]


async def test_receipt_by_an_outsider_is_refused(alice: Client, bob: Client) -> None:
    room_id = await alice.create_room()
    event_id = await alice.send(room_id)
    await bob.call("POST", f"/rooms/{room_id}/receipt/m.read/{event_id}", {}, expect=403)


async def test_fully_read_marker_comes_back_as_room_account_data(alice: Client, bob: Client) -> None:
    room_id = await room_of_two(alice, bob)
    event_id = await alice.send(room_id)
    await bob.post(f"/rooms/{room_id}/read_markers", {"m.fully_read": event_id, "m.read": event_id})
    body = await bob.sync()
    events = body["rooms"]["join"][room_id]["account_data"]["events"]
    assert events == [{"type": "m.fully_read", "content": {"event_id": event_id}}]


async def test_fully_read_marker_never_moves_backwards(alice: Client, bob: Client) -> None:
    room_id = await room_of_two(alice, bob)
    first, second = await alice.send(room_id), await alice.send(room_id)
    marker = f"/user/{bob.user_id}/rooms/{room_id}/account_data/m.fully_read"
    for late in (first, first, second, first):
        await bob.post(f"/rooms/{room_id}/read_markers", {"m.fully_read": late})
    assert await bob.get(marker) == {"event_id": second}
    await bob.post(f"/rooms/{room_id}/receipt/m.fully_read/{first}")
    assert await bob.get(marker) == {"event_id": second}


async def test_fully_read_marker_is_an_event_of_the_room(alice: Client, bob: Client) -> None:
    room_id, other = await room_of_two(alice, bob), await bob.create_room()
    for event_id in ("$no:event", await bob.send(other)):
        marked = {"m.fully_read": event_id}
        reply = await bob.call("POST", f"/rooms/{room_id}/read_markers", marked, expect=404)
        assert reply.errcode == "M_NOT_FOUND"
    await bob.call("GET", f"/user/{bob.user_id}/rooms/{room_id}/account_data/m.fully_read", expect=404)


async def test_fully_read_markers_at_the_same_moment_leave_the_one_that_is_ahead(
    server: Server, alice: Client, bob: Client
) -> None:
    room_id = await room_of_two(alice, bob)
    events = [await alice.send(room_id) for _ in range(4)]
    receipts = server.app.conversations.receipts
    await asyncio.gather(
        *(receipts.mark(room_id, bob.user_id, "m.fully_read", event_id) for event_id in reversed(events))
    )
    marker = await bob.get(f"/user/{bob.user_id}/rooms/{room_id}/account_data/m.fully_read")
    assert marker == {"event_id": events[-1]}


async def test_typing_is_shown_and_ends(alice: Client, bob: Client) -> None:
    room_id = await room_of_two(alice, bob)
    path = f"/rooms/{room_id}/typing/{alice.user_id}"
    await alice.put(path, {"typing": True, "timeout": 300})
    assert await typing_news(bob, room_id) == {"user_ids": [alice.user_id]}
    assert await typing_news(bob, room_id) == {"user_ids": []}


async def typing_news(client: Client, room_id: str) -> Any:
    """What is said next of who types: of presence, too, there may be news."""
    while (content := ephemeral(await client.sync(timeout=2000), room_id, "m.typing")) is None:
        pass
    return content


async def test_who_is_put_out_types_no_more(alice: Client, bob: Client) -> None:
    room_id = await room_of_two(alice, bob)
    await bob.put(f"/rooms/{room_id}/typing/{bob.user_id}", {"typing": True, "timeout": 60_000})
    assert await typing_news(alice, room_id) == {"user_ids": [bob.user_id]}
    await alice.post(f"/rooms/{room_id}/kick", {"user_id": bob.user_id})
    assert ephemeral(await alice.sync(), room_id, "m.typing") == {"user_ids": []}


async def test_nobody_types_for_another_user(alice: Client, bob: Client) -> None:
    room_id = await room_of_two(alice, bob)
    await alice.call("PUT", f"/rooms/{room_id}/typing/{bob.user_id}", {"typing": True}, expect=403)
