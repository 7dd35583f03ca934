"""Events that are sent later (MSC4140), whichever replica they were scheduled at."""

import asyncio

from homeserver.bus.bus import Ownership
from tests.client_api.conftest import Client
from tests.client_api.delayed import DELAYED, EVENTS, messages, outcome
from tests.two_replicas.conftest import SHARDS, Replicas

SOON = 300


async def message_later(client: Client, room_id: str, body: str, ms: int) -> str:
    """Scheduled where the client asks, be it not the room's owner."""
    content = {"msgtype": "m.text", "body": body}
    path = f"{DELAYED}/rooms/{room_id}/delayed_event/m.room.message/{body}"
    delay_id: str = (await client.put(path, {"delay_ms": ms, "content": content}))["delay_id"]
    return delay_id


async def test_event_of_any_room_is_sent_in_time_wherever_it_was_scheduled(
    replicas: Replicas, alice: Client
) -> None:
    rooms = [await alice.create_room() for _ in range(4)]
    clients = (alice, replicas.at_b(alice))
    for room_id in rooms:
        for number, client in enumerate(clients):
            ended = await outcome(client, await message_later(client, room_id, f"m{number}", SOON))
            assert ended["finalised_ts"] - ended["scheduled_at"] < SOON + 2_000
        assert await messages(alice, room_id) == ["m0", "m1"]


async def test_event_is_sent_once_though_both_replicas_think_it_theirs(
    replicas: Replicas, room: str, alice: Client
) -> None:
    every_shard = frozenset((*SHARDS.room_shards(), *SHARDS.user_shards()))
    for replica in (replicas.a, replicas.b):
        replica.app.ground.replica.on_ownership(Ownership(every_shard))
    ids = [await message_later(alice, room, str(number), SOON) for number in range(8)]
    for delay_id in ids:
        assert "event_id" in await outcome(alice, delay_id)
    assert sorted(await messages(alice, room)) == [str(number) for number in range(8)]


async def test_event_is_put_off_sent_and_cancelled_at_the_other_replica(
    replicas: Replicas, room: str, alice: Client
) -> None:
    at_b = replicas.at_b(alice)
    put_off = await message_later(alice, room, "restarted", 2_000)
    cancelled = await message_later(alice, room, "cancelled", 2_000)
    sent = await message_later(alice, room, "sent", 60_000)
    await at_b.post(f"{EVENTS}/{cancelled}/cancel")
    await at_b.post(f"{EVENTS}/{sent}/send")
    for _ in range(4):
        await asyncio.sleep(0.6)
        await at_b.post(f"{EVENTS}/{put_off}/restart")
    assert await messages(alice, room) == ["sent"]
    await outcome(alice, put_off)
    assert await messages(at_b, room) == ["sent", "restarted"]


async def test_what_was_set_before_at_the_other_replica_cancels_nothing(
    replicas: Replicas, room: str, alice: Client, bob: Client
) -> None:
    """Though this one has not heard of it yet."""
    levels = await alice.get(f"/rooms/{room}/state/m.room.power_levels")
    await alice.set_state(room, "m.room.power_levels", {**levels, "events": {"org.example": 0}})
    both = (replicas.a, replicas.b)
    owner = next(each for each in both if each.app.ground.others.elsewhere(room) is None)
    other = next(each for each in both if each is not owner)
    bob_there = replicas.at(other, bob)
    await bob_there.get(f"/rooms/{room}/state")
    replicas.exchange.hold(True)
    await replicas.at(owner, alice).set_state(room, "org.example", {"from": "alice"}, "key")
    path = f"{DELAYED}/rooms/{room}/delayed_event/org.example/1"
    body = {"delay_ms": 60_000, "content": {"from": "bob"}, "state_key": "key"}
    delay_id = (await bob_there.put(path, body))["delay_id"]
    replicas.exchange.hold(False)
    for replica in both:
        await replicas.at(replica, bob).post(f"{EVENTS}/{delay_id}/restart")
    await bob.post(f"{EVENTS}/{delay_id}/send")
    assert (await alice.get(f"/rooms/{room}/state/org.example/key"))["from"] == "bob"


async def test_event_waits_for_the_replica_that_is_left(replicas: Replicas, room: str, alice: Client) -> None:
    """Whoever of them the room belonged to."""
    at_b = replicas.at_b(alice)
    other = await alice.create_room()
    ids = [await message_later(alice, room_id, "later", 1_000) for room_id in (room, other)]
    await replicas.a.stop()
    for delay_id in ids:
        assert "event_id" in await outcome(at_b, delay_id)
