"""Typing and presence are the same at all replicas, and so are the tokens that say what was seen of them."""

import asyncio
from typing import Any

import pytest

from homeserver.rooms import ephemeral
from tests.client_api.conftest import Client
from tests.two_replicas.conftest import Replicas, until


def typing_in(body: Any, room_id: str) -> list[str] | None:
    """Who types by a sync's answer, None when it does not say."""
    events = body.get("rooms", {}).get("join", {}).get(room_id, {}).get("ephemeral", {}).get("events", [])
    found = [event["content"]["user_ids"] for event in events if event["type"] == "m.typing"]
    return found[-1] if found else None


async def types(client: Client, room_id: str, timeout_ms: int | None) -> None:
    body: dict[str, Any] = {"typing": timeout_ms is not None}
    if timeout_ms is not None:
        body["timeout"] = timeout_ms
    await client.put(f"/rooms/{room_id}/typing/{client.user_id}", body)


async def test_typing_at_one_replica_wakes_a_poll_at_the_other(room: str, alice: Client, bob: Client) -> None:
    await bob.sync()
    poll = asyncio.create_task(bob.sync(timeout=10_000))
    await asyncio.sleep(0.1)
    await types(alice, room, 10_000)
    assert typing_in(await poll, room) == [alice.user_id]
    await types(alice, room, None)
    assert typing_in(await bob.sync(timeout=10_000), room) == []


async def test_typing_elsewhere_wakes_those_whose_room_is_not_in_memory(
    replicas: Replicas, room: str, alice: Client, bob: Client
) -> None:
    await bob.sync()
    poll = asyncio.create_task(bob.sync(timeout=10_000, set_presence="offline"))
    await asyncio.sleep(0.1)
    there = replicas.b.app.ground.rooms
    there._rooms.clear()
    await until(lambda: there.cached(room) is None)
    await types(alice, room, 60_000)
    async with asyncio.timeout(5):
        assert typing_in(await poll, room) == [alice.user_id]


async def test_typing_ends_at_both_when_its_time_has_come(
    replicas: Replicas, room: str, alice: Client, bob: Client
) -> None:
    await bob.sync()
    await types(alice, room, 200)
    assert typing_in(await bob.sync(timeout=10_000), room) == [alice.user_id]
    assert typing_in(await bob.sync(timeout=10_000), room) == []
    assert replicas.a.app.conversations.typing.users(room) == []


async def test_typing_that_began_at_a_dead_replica_ends_all_the_same(
    replicas: Replicas, monkeypatch: pytest.MonkeyPatch, room: str, alice: Client, bob: Client
) -> None:
    monkeypatch.setattr(ephemeral, "NET_MS", 100)
    await bob.sync()
    await types(alice, room, 300)
    assert typing_in(await bob.sync(timeout=10_000), room) == [alice.user_id]
    replicas.exchange.leave(0)
    for timer in replicas.a.app.conversations.typing._timers.values():
        timer.cancel()
    assert typing_in(await bob.sync(timeout=10_000), room) == []


async def test_a_token_means_the_same_at_either_replica(
    replicas: Replicas, room: str, alice: Client, bob: Client
) -> None:
    await bob.sync()
    await types(alice, room, 10_000)
    assert typing_in(await bob.sync(timeout=10_000), room) == [alice.user_id]
    elsewhere = replicas.at(replicas.a, bob)
    assert typing_in(await elsewhere.sync(), room) is None
    await types(alice, room, None)
    assert typing_in(await elsewhere.sync(timeout=10_000), room) == []
    bob.next_batch = elsewhere.next_batch
    assert typing_in(await bob.sync(), room) is None


async def test_what_a_slow_replica_hears_late_is_neither_lost_nor_told_twice(
    replicas: Replicas, room: str, alice: Client, bob: Client
) -> None:
    """The client has been told by A; B hears of it afterwards."""
    fast = replicas.at(replicas.a, bob)
    await fast.sync()
    hears = replicas.exchange.members[1]
    replicas.exchange.members[1] = None
    await types(alice, room, 10_000)
    assert typing_in(await fast.sync(timeout=10_000), room) == [alice.user_id]
    replicas.exchange.members[1] = hears
    slow = replicas.at_b(fast)
    body = await slow.sync()
    assert typing_in(body, room) is None
    assert slow.next_batch == fast.next_batch
    await types(alice, room, None)
    await types(alice, room, 10_000)
    assert typing_in(await slow.sync(timeout=10_000), room) == [alice.user_id]


# --- Presence ------------------------------------------------------------------------------------------


async def presence_of(client: Client, who: Client, **options: Any) -> str | None:
    events = (await client.sync(**options)).get("presence", {}).get("events", [])
    found = [event["content"]["presence"] for event in events if event["sender"] == who.user_id]
    return found[-1] if found else None


async def seen(client: Client, who: Client, state: str) -> None:
    """Sync until somebody is shown in a state."""
    async with asyncio.timeout(10):
        while await presence_of(client, who, timeout=5_000, set_presence="offline") != state:
            pass


@pytest.mark.parametrize("name", ["dora", "emil", "fay"])
async def test_who_syncs_at_one_replica_is_online_at_the_other(
    replicas: Replicas, room: str, bob: Client, name: str
) -> None:
    """Whichever of the two decides about the user."""
    other = await replicas.client().register(name)
    await other.join(room)
    await bob.sync(set_presence="offline")
    await other.sync()
    await seen(bob, other, "online")
    status = f"/presence/{other.user_id}/status"
    assert (await bob.get(status))["presence"] == "online"
    await other.put(status, {"presence": "unavailable", "status_msg": "tea"})
    await seen(bob, other, "unavailable")
    assert (await bob.get(status))["status_msg"] == "tea"
    # The word of one, for all the tokens: at the other replica there is nothing new.
    elsewhere = replicas.at(replicas.a, bob)
    assert await presence_of(elsewhere, other) is None


async def test_a_replica_that_knows_of_nobody_is_told_who_is_here(
    replicas: Replicas, room: str, alice: Client, bob: Client
) -> None:
    await alice.sync()
    await bob.sync(set_presence="offline")
    await seen(bob, alice, "online")
    told = replicas.b.app.people.presence_stream
    for user_id in list(told.here):
        told.forget(user_id)
    assert await presence_of(replicas.at_b(bob), alice, full=True, set_presence="offline") is None
    await replicas.b.app.people.presence.start()
    await until(lambda: alice.user_id in told.here and told.here[alice.user_id].told.state == "online")
    assert await presence_of(replicas.at_b(bob), alice, full=True, set_presence="offline") == "online"


async def test_who_is_here_is_told_again_and_again_and_who_left_is_not(
    replicas: Replicas, room: str, alice: Client
) -> None:
    poll = asyncio.create_task(alice.sync(timeout=20_000))
    b = replicas.b.app.people.presence_stream
    await until(lambda: alice.user_id in b.here and bool(b.here[alice.user_id].devices))
    device = b.here[alice.user_id].devices[alice.device_id]
    device.here_until = 0
    replicas.a.app.people.presence_reports.beat()
    await until(lambda: device.here_until > 0)
    replicas.a.app.ground.long_polls.close()
    await poll
    replicas.a.app.people.presence_reports.beat()
    await asyncio.sleep(0.05)
    device.here_until = 0
    replicas.a.app.people.presence_reports.beat()
    await asyncio.sleep(0.05)
    assert device.here_until == 0
