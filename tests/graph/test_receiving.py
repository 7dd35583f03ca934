"""Events of other servers come in any order, and rooms are what the graph says, whatever the order was.

Rooms grown at random are the reference: they know the state before and after each of their events, and
which of them the rules refuse.
"""

import random

import pytest

from homeserver.clock import system_clock
from homeserver.graph.early_redactions import EarlyRedactions
from homeserver.graph.events import GraphEvents
from homeserver.graph.receiving import Missing, Outcome, Receiver
from homeserver.graph.states import States
from homeserver.protocol.event_auth import auth_event_keys
from homeserver.protocol.events import Event
from homeserver.protocol.signing import encode_event
from homeserver.protocol.state_resolution import resolve
from homeserver.rooms.event_entry import event_entry
from homeserver.rooms.event_meta import EventMeta
from homeserver.rooms.policy import NoPolicyServers, Policy
from homeserver.rooms.room import Room, RoomHead
from homeserver.rooms.rooms import Rooms
from homeserver.shard_writer import Append
from storage.records.side_events import EARLY_REDACTIONS, GAPS, SIDE_EVENTS
from storage.store import Store
from tests.graph.conftest import SHARDS
from tests.unit.protocol.auth_room import make_event
from tests.unit.protocol.random_room import RandomRoom

BEGINNING = 1
"""Events with which a server knows of the room at first: its creation."""


class Server:
    """What one server has of one room."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.rooms = Rooms(store.log, SHARDS, system_clock, memory_budget=1 << 24)
        side = store.collection(SIDE_EVENTS)
        self.events = GraphEvents(store.log, side)
        self.states = States(store.log, self.events)
        gaps, early = store.collection(GAPS), EarlyRedactions(store.collection(EARLY_REDACTIONS))
        self.receiver = Receiver(
            self.rooms, self.events, self.states, side, gaps, early, Policy(NoPolicyServers(), system_clock)
        )

    async def start(self) -> "Server":
        await self.rooms.start(lambda shard, tail: None)
        return self

    async def arrive(self, grown: RandomRoom) -> Room:
        (create,) = list(grown.events.values())[:BEGINNING]
        body = encode_event(create.version, create.pdu)
        item, _ = event_entry(create, body, RoomHead(), 0, EventMeta())
        await self.rooms.writers[0].submit(Append([item.entry]))
        return await self.room(create.room_id)

    async def room(self, room_id: str) -> Room:
        room = await self.rooms.get(room_id)
        assert room is not None
        return room


def state_ids(room: Room) -> dict[tuple[str, str], str]:
    return {key: event.event_id for key, event in room.head.state.items()}


def any_order(grown: RandomRoom, choose: random.Random) -> list[Event]:
    """The events after the beginning, each after what it follows upon."""
    there = set(list(grown.events)[:BEGINNING])
    waiting = list(grown.events.values())[BEGINNING:]
    ordered: list[Event] = []
    while waiting:
        ready = [event for event in waiting if there.issuperset(event.prev_events)]
        event = choose.choice(ready)
        waiting.remove(event)
        there.add(event.event_id)
        ordered.append(event)
    return ordered


def merging(grown: RandomRoom) -> Event:
    """A message of the creator that follows upon all ends of the graph."""
    alice = "@alice:a"
    tips = sorted(grown.tips)
    before = grown.state_before(tips)
    keys = auth_event_keys(grown.version, "m.room.topic", alice, "", {})
    return make_event(
        grown.version, grown.name(10_000), "m.room.topic", alice, "", {"topic": "at last"},
        room_id=grown.events[grown.create_id].room_id,
        prev_events=tips,
        auth_events=[before[key] for key in keys if key in before],
        origin_server_ts=9,
        depth=1 + max(grown.events[tip].depth for tip in tips),
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("version", ["1", "2", "6", "11", "12"])
async def test_every_order_leads_to_the_state_that_the_graph_has(
    store: Store, version: str, seed: int
) -> None:
    grown = RandomRoom(version, seed, 60)
    server = await Server(store).start()
    room = await server.arrive(grown)
    assert state_ids(room) == grown.after[list(grown.events)[BEGINNING - 1]]
    for event in any_order(grown, random.Random(f"{version}/{seed}")):
        outcome = await server.receiver.receive(room, event)
        assert (outcome is Outcome.REJECTED) == (event.event_id in grown.rejected), event
        assert await server.receiver.receive(room, event) is outcome
        states = await server.states.after(room, room.head.tips)
        assert state_ids(room) == resolve(room.version, states, grown.events, rejected=grown.rejected)
    state = state_ids(room)
    server = await Server(store).start()
    room = await server.room(room.room_id)
    assert state_ids(room) == state
    known = await server.events.get_many(room, list(grown.events)[BEGINNING:])
    for event_id, each in known.items():
        assert dict(await server.states.before(room, each)) == grown.before[event_id], event_id
    last = merging(grown)
    if await server.receiver.receive(room, last) is Outcome.ACCEPTED:
        before = grown.state_before(sorted(grown.tips))
        assert room.head.tips == (last.event_id,)
        assert state_ids(room) == {**before, last.state_tuple: last.event_id}


async def test_what_an_event_follows_upon_has_to_be_there_first(store: Store) -> None:
    grown = RandomRoom("12", 1, 30)
    server = await Server(store).start()
    room = await server.arrive(grown)
    unknown = list(grown.events.values())[-1]
    with pytest.raises(Missing) as caught:
        await server.receiver.receive(room, unknown)
    assert set(caught.value.prev_events) <= set(unknown.prev_events)
    assert caught.value.prev_events
    assert state_ids(room) == grown.after[list(grown.events)[BEGINNING - 1]]
