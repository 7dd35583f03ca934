"""A connection of sliding sync goes on at whichever replica is asked."""

import asyncio

from tests.client_api.conftest import Client
from tests.client_api.sliding import Sliding, messages_in, whole_list
from tests.two_replicas.conftest import Replicas


async def elsewhere(replicas: Replicas, sliding: Sliding, number: int) -> Sliding:
    """The same connection at A (0) or B (1), which has heard of everything by now."""
    there = Sliding(replicas.at((replicas.a, replicas.b)[number], sliding.client), **sliding.request)
    there.pos = sliding.pos
    await there.client.get("/joined_rooms")
    return there


async def test_hopping_between_replicas_loses_and_doubles_nothing(
    replicas: Replicas, room: str, alice: Client, bob: Client
) -> None:
    sliding = Sliding(bob, lists={"all": whole_list()})
    await sliding.poll()
    sent, seen = [], []
    for number in range(12):
        sender = replicas.at((replicas.a, replicas.b)[number // 2 % 2], alice)
        sent.append(await sender.send(room, str(number), txn=f"hop{number}"))
        sliding = await elsewhere(replicas, sliding, number % 2)
        body = await sliding.poll()
        assert "initial" not in body["rooms"][room]
        seen += messages_in(body, room)
    assert seen == sent


async def test_rooms_that_came_are_known_to_the_other(
    replicas: Replicas, room: str, alice: Client, bob: Client
) -> None:
    sliding = Sliding(bob, lists={"all": whole_list()})
    assert list((await sliding.poll())["rooms"]) == [room]
    newer = await alice.create_room(preset="public_chat", invite=[bob.user_id])
    sliding = await elsewhere(replicas, sliding, 0)
    assert "invite_state" in (await sliding.poll())["rooms"][newer]
    missed = await alice.send(room, "news")
    sliding = await elsewhere(replicas, sliding, 1)
    body = await sliding.poll()
    assert list(body["rooms"]) == [room]
    assert messages_in(body, room) == [missed]
    assert (await (await elsewhere(replicas, sliding, 0)).poll())["rooms"] == {}


async def test_answer_of_a_replica_that_was_lost_is_given_by_the_other(
    replicas: Replicas, room: str, alice: Client, bob: Client
) -> None:
    sliding = Sliding(bob, lists={"all": whole_list()})
    await sliding.poll()
    event_id = await alice.send(room)
    lost = await elsewhere(replicas, sliding, 1)
    assert messages_in(await lost.poll(), room) == [event_id]
    again = await elsewhere(replicas, sliding, 0)
    assert messages_in(await again.poll(), room) == [event_id]


async def test_poll_that_waits_at_the_other_wakes(
    replicas: Replicas, room: str, alice: Client, bob: Client
) -> None:
    sliding = Sliding(bob, lists={"all": whole_list()})
    await sliding.poll()
    there = await elsewhere(replicas, sliding, 0)
    poll = asyncio.create_task(there.poll(timeout=20_000))
    await asyncio.sleep(0.1)
    event_id = await replicas.at_b(alice).send(room)
    assert messages_in(await asyncio.wait_for(poll, 5), room) == [event_id]
