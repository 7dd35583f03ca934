"""The main path: two users meet in a room and talk."""

import asyncio
from urllib.parse import quote

from tests.client_api.conftest import Client, Server


async def test_message_reaches_a_waiting_long_poll_at_once(alice: Client, bob: Client) -> None:
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    await bob.sync()
    poll = asyncio.create_task(bob.sync(timeout=20_000))
    await asyncio.sleep(0.05)
    event_id = await alice.send(room_id, "hi bob")
    body = await asyncio.wait_for(poll, 5)
    events = body["rooms"]["join"][room_id]["timeline"]["events"]
    assert [(event["event_id"], event["content"]["body"]) for event in events] == [(event_id, "hi bob")]


async def test_same_transaction_id_makes_one_event(alice: Client) -> None:
    room_id = await alice.create_room()
    assert await alice.send(room_id, "once", txn="x") == await alice.send(room_id, "once", txn="x")
    page = await alice.get(f"/rooms/{room_id}/messages", query={"dir": "b", "limit": 50})
    assert [e["content"].get("body") for e in page["chunk"]].count("once") == 1


async def test_a_transaction_is_answered_again_after_the_sender_was_put_out(
    alice: Client, bob: Client
) -> None:
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    message = await bob.send(room_id, "heard", txn="1")
    path = f"/rooms/{quote(room_id)}/redact/{quote(message)}/2"
    redaction = await bob.put(path, {})
    await alice.post(f"/rooms/{quote(room_id)}/kick", {"user_id": bob.user_id})
    assert await bob.send(room_id, "heard", txn="1") == message
    assert await bob.put(path, {}) == redaction
    reply = await bob.call(
        "PUT",
        f"/rooms/{quote(room_id)}/send/m.room.message/3",
        {"msgtype": "m.text", "body": "no"},
        expect=403,
    )
    assert reply.errcode == "M_FORBIDDEN"


async def test_only_the_sending_device_sees_the_transaction_id(alice: Client, bob: Client) -> None:
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    await alice.sync()
    await bob.sync()
    await alice.send(room_id, txn="mine")
    for client, expected in ((alice, "mine"), (bob, None)):
        body = await client.sync(timeout=1000)
        event = body["rooms"]["join"][room_id]["timeline"]["events"][-1]
        assert event["unsigned"].get("transaction_id") == expected


async def test_new_poll_of_a_device_ends_its_old_one(alice: Client) -> None:
    await alice.create_room()
    since = (await alice.sync())["next_batch"]
    old = asyncio.create_task(alice.sync(timeout=20_000, since=since))
    await asyncio.sleep(0.05)
    new = asyncio.create_task(alice.sync(timeout=500, since=since))
    body = await asyncio.wait_for(old, 0.4)
    assert "rooms" not in body
    assert not new.done()
    await new


async def test_nobody_is_typing_for_ever_because_of_a_restart(
    server: Server, alice: Client, bob: Client
) -> None:
    """Clients show who types until they are told otherwise."""
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    await bob.put(f"/rooms/{room_id}/typing/{bob.user_id}", {"typing": True, "timeout": 60_000})
    section = (await alice.sync())["rooms"]["join"][room_id]
    assert section["ephemeral"]["events"] == [{"type": "m.typing", "content": {"user_ids": [bob.user_id]}}]
    poll = asyncio.create_task(alice.sync(timeout=60_000))
    await asyncio.sleep(0.05)
    await server.restart()
    section = (await poll)["rooms"]["join"][room_id]
    assert section["ephemeral"]["events"] == [{"type": "m.typing", "content": {"user_ids": []}}]


async def test_shutdown_answers_waiting_polls_at_once(server: Server, alice: Client) -> None:
    await alice.sync()
    poll = asyncio.create_task(alice.sync(timeout=60_000))
    await asyncio.sleep(0.05)
    await asyncio.wait_for(server.stop(), 10)
    assert "next_batch" in await poll
