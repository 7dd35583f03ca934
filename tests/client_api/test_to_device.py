"""Messages from device to device (spec: client-server "Send-to-Device messaging")."""

import asyncio
from typing import Any

import pytest

from homeserver.e2ee import to_device as sending
from homeserver.e2ee.device_messages import MAX_MESSAGE_BYTES
from homeserver.sync import to_device as queue
from storage.errors import StoreUnavailable
from storage.log import Entry, Kind
from tests.client_api.conftest import Client, Server
from tests.client_api.crypto_device import log_in, restart


async def send(
    sender: Client, messages: dict[str, Any], txn: str, type: str = "m.test", expect: int = 200
) -> None:
    await sender.call("PUT", f"/sendToDevice/{type}/{txn}", {"messages": messages}, expect=expect)


def to(client: Client, content: Any, device_id: str | None = None) -> dict[str, Any]:
    return {client.user_id: {device_id or client.device_id: content}}


async def received(client: Client) -> list[Any]:
    """The contents of the messages in the next sync."""
    body = await client.sync()
    return [event["content"] for event in body.get("to_device", {}).get("events", [])]


async def stored(server: Server, client: Client) -> list[Entry]:
    """What of a device's messages lies in the log."""
    user = await server.app.users.get(client.user_id)
    return await server.app.store.log.keyed(
        user.shard,
        client.user_id,
        kind=Kind.TO_DEVICE,
        type=queue.TYPE,
        key=client.device_id,
        limit=1000,
    )


async def test_a_message_arrives_once_with_its_sender_at_the_device_it_names(
    alice: Client, bob: Client
) -> None:
    phone = await log_in(bob)
    await send(alice, to(phone, {"hello": 1}), "t1", "m.room_key")
    body = await phone.sync()
    expected = {"content": {"hello": 1}, "sender": alice.user_id, "type": "m.room_key"}
    assert body["to_device"]["events"] == [expected]
    assert await received(phone) == []
    assert await received(bob) == []


async def test_a_wildcard_reaches_all_devices_of_the_user(alice: Client, bob: Client) -> None:
    phone = await log_in(bob)
    await send(alice, to(bob, {"n": 1}, "*"), "t1")
    assert await received(bob) == [{"n": 1}]
    assert await received(phone) == [{"n": 1}]
    assert await received(alice) == []


async def test_beside_a_wildcard_a_named_device_gets_its_own_message_only(alice: Client, bob: Client) -> None:
    phone = await log_in(bob)
    both = {bob.user_id: {phone.device_id: {"n": "own"}, "*": {"n": "all"}}}
    await send(alice, both, "t1")
    assert await received(phone) == [{"n": "own"}]
    assert await received(bob) == [{"n": "all"}]


async def test_messages_arrive_in_the_order_of_sending(alice: Client, bob: Client, carol: Client) -> None:
    for number in range(10):
        await send(alice if number % 2 else carol, to(bob, {"n": number}), f"t{number}")
    assert await received(bob) == [{"n": number} for number in range(10)]


async def test_a_message_wakes_a_waiting_long_poll(alice: Client, bob: Client) -> None:
    await bob.sync()
    poll = asyncio.create_task(bob.sync(timeout=20_000))
    await asyncio.sleep(0.05)
    await send(alice, to(bob, {"n": 1}), "t1")
    body = await asyncio.wait_for(poll, 5)
    assert body["to_device"]["events"][0]["content"] == {"n": 1}


async def test_messages_stay_until_the_next_token_acknowledges_them(
    server: Server, alice: Client, bob: Client
) -> None:
    await bob.sync()
    await send(alice, to(bob, {"n": 1}), "t1")
    since = bob.next_batch
    for _ in range(2):
        bob.next_batch = since
        assert await received(bob) == [{"n": 1}]
    await restart(server, alice, bob)
    bob.next_batch = since
    assert await received(bob) == [{"n": 1}]
    assert await received(bob) == []
    # Who has acknowledged them is shown them no more, not even at a first sync.
    bob.next_batch = None
    assert await received(bob) == []
    await restart(server, alice, bob)
    bob.next_batch = None
    assert await received(bob) == []


async def test_messages_come_a_page_at_a_time_and_none_is_lost(alice: Client, bob: Client) -> None:
    sent = [{"n": number} for number in range(2 * queue.PAGE + 30)]
    for content in sent:
        await send(alice, to(bob, content), f"t{content['n']}")
    pages = [await received(bob) for _ in range(4)]
    assert [len(page) for page in pages] == [queue.PAGE, queue.PAGE, 30, 0]
    assert [content for page in pages for content in page] == sent


async def test_a_sync_that_holds_not_all_messages_is_followed_at_once(alice: Client, bob: Client) -> None:
    await bob.sync()
    for number in range(queue.PAGE + 1):
        await send(alice, to(bob, {"n": number}), f"t{number}")
    assert len(await received(bob)) == queue.PAGE
    body = await asyncio.wait_for(bob.sync(timeout=20_000), 5)
    assert len(body["to_device"]["events"]) == 1


# Once per transaction


async def test_a_repeated_transaction_sends_nothing_twice(server: Server, alice: Client, bob: Client) -> None:
    for _ in range(2):
        await send(alice, to(bob, {"n": 1}), "t1")
    await asyncio.gather(*(send(alice, to(bob, {"n": 2}), "t2") for _ in range(5)))
    assert await received(bob) == [{"n": 1}, {"n": 2}]
    # The device has long acknowledged it, and the server was restarted: still the same transaction.
    for _ in range(3):
        assert await received(bob) == []
    await restart(server, alice, bob)
    await send(alice, to(bob, {"n": 1}), "t1")
    assert await received(bob) == []


async def test_the_same_transaction_id_of_another_type_or_device_is_another(
    alice: Client, bob: Client
) -> None:
    other = await log_in(alice)
    await send(alice, to(bob, {"n": 1}), "t1")
    await send(alice, to(bob, {"n": 2}), "t1", "m.other")
    await send(other, to(bob, {"n": 3}), "t1")
    assert await received(bob) == [{"n": 1}, {"n": 2}, {"n": 3}]


async def test_a_repeated_transaction_adds_what_an_interrupted_one_did_not_get_to(
    server: Server, alice: Client, bob: Client, carol: Client
) -> None:
    await send(alice, to(carol, {"n": 1}), "t1")
    await restart(server, alice, bob, carol)
    await send(alice, {**to(bob, {"n": 1}), **to(carol, {"n": 1})}, "t1")
    assert await received(bob) == [{"n": 1}]
    assert await received(carol) == [{"n": 1}]


# What is stored


async def test_nothing_is_stored_for_devices_and_users_that_do_not_exist(
    server: Server, alice: Client, bob: Client
) -> None:
    """HARDENING 14: store only for live local devices."""
    before = server.app.users.tail(bob.user_id)
    messages: dict[str, Any] = {
        bob.user_id: {"NOSUCH": {}},
        "@nobody:localhost": {"*": {}, "DEVICE": {}},
        "@x:elsewhere.example": {"*": {}},
    }
    await send(alice, messages, "t1")
    assert server.app.users.tail(bob.user_id) == before


async def test_a_deleted_device_leaves_no_messages(server: Server, alice: Client, bob: Client) -> None:
    phone = await log_in(bob)
    for number in range(queue.PAGE + 5):
        await send(alice, to(phone, {"n": number}), f"t{number}")
    assert len(await stored(server, phone)) == queue.PAGE + 5
    await phone.post("/logout")
    assert await stored(server, phone) == []
    again = await log_in(bob, device_id=phone.device_id)
    assert await received(again) == []


async def test_acknowledged_messages_leave_the_store_when_no_repeat_can_come(
    server: Server, alice: Client, bob: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(queue.PAGE + 5):
        await send(alice, to(bob, {"n": number}), f"t{number}")
    for _ in range(4):
        await bob.sync()
    assert len(await stored(server, bob)) == queue.PAGE + 5
    to_device = server.app.syncing.engine.to_device
    now = to_device._now
    monkeypatch.setattr(to_device, "_now", lambda: now() + queue.KEPT_MS + 1)
    await send(alice, to(bob, {"n": "new"}), "new")
    await bob.sync()
    await to_device.settle()
    assert [entry.body for entry in await stored(server, bob)] == [
        b'{"content":{"n":"new"},"sender":"@alice:localhost","type":"m.test"}'
    ]


async def test_a_device_that_fetches_nothing_has_a_full_queue_some_day(
    server: Server, alice: Client, bob: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HARDENING 14: growth by small writes."""
    monkeypatch.setattr(queue, "MAX_WAITING", 5)
    phone = await log_in(bob)
    for number in range(8):
        both = {bob.user_id: {bob.device_id: {"n": number}, phone.device_id: {"n": number}}}
        await send(alice, both, f"t{number}")
        await send(alice, to(phone, {"n": number}), f"p{number}")
    assert len(await stored(server, phone)) == 5
    assert len(await received(bob)) == 5
    await bob.sync()
    await send(alice, to(bob, {"n": "again"}), "again")
    assert await received(bob) == [{"n": "again"}]


async def test_what_is_not_stored_takes_no_room(
    server: Server, alice: Client, bob: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client repeats what it has no answer to, be it that the store is away."""
    monkeypatch.setattr(queue, "MAX_WAITING", 5)
    append = server.app.store.log.append

    async def away(*args: Any) -> int:
        raise StoreUnavailable("away")

    monkeypatch.setattr(server.app.store.log, "append", away)
    for _ in range(6):
        await send(alice, to(bob, {"n": 1}), "t1", expect=503)
    monkeypatch.setattr(server.app.store.log, "append", append)
    for _ in range(6):
        await send(alice, to(bob, {"n": 1}), "t1")
    await send(alice, to(bob, {"n": 2}), "t2")
    assert await received(bob) == [{"n": 1}, {"n": 2}]


# Limits


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"messages":1}',
        b'{"messages":[]}',
        b'{"messages":{"@bob:localhost":1}}',
        b'{"messages":{"@bob:localhost":[]}}',
        b'{"messages":{"@bob:localhost":{"*":1}}}',
        b'{"messages":{"@bob:localhost":{"*":null}}}',
        b'{"messages":{"@bob:localhost":{"*":{"x":NaN}}}}',
    ],
)
async def test_bodies_of_wrong_types_are_refused_and_send_nothing(
    alice: Client, bob: Client, body: bytes
) -> None:
    await alice.call("PUT", "/sendToDevice/m.test/t1", data=body, expect=400)
    assert await received(bob) == []


async def test_too_large_or_too_many_messages_are_refused_and_none_is_sent(
    alice: Client, bob: Client, carol: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = {"x": "y" * MAX_MESSAGE_BYTES}
    await send(alice, {**to(carol, {"n": 1}), **to(bob, large)}, "t1", expect=413)
    monkeypatch.setattr(sending, "MAX_MESSAGES", 2)
    three = {**to(bob, {}), **to(carol, {}), **to(alice, {})}
    await send(alice, three, "t2", expect=400)
    await log_in(bob)
    await send(alice, {**to(bob, {}, "*"), **to(carol, {})}, "t3", expect=400)
    monkeypatch.setattr(sending, "MAX_REQUEST_BYTES", 100)
    await send(alice, to(bob, {"x": "y" * 200}), "t4", expect=400)
    await send(alice, to(bob, {}), "t" * 300, expect=400)
    await send(alice, to(bob, {}), "t5", "m." + "x" * 300, expect=400)
    for client in (alice, bob, carol):
        assert await received(client) == []
