"""Events by id: what is kept of them is what the store has."""

import asyncio
from collections.abc import Sequence

from msgspec.structs import replace

from homeserver.clock import system_clock
from homeserver.graph.events import GraphEvents
from homeserver.graph.outliers import side_event
from homeserver.rooms.room import Room
from storage.collection import Collection
from storage.records.side_events import OUTLIER, SIDE_EVENTS, SOFT_FAILED, SideEvent
from storage.store import Store
from tests.unit.protocol.random_room import RandomRoom


class Slow:
    """Side events, told as they were when they were asked for, once they are let go."""

    def __init__(self, stored: Collection[SideEvent]) -> None:
        self._stored = stored
        self.asked = asyncio.Event()
        self.go = asyncio.Event()

    async def get_many(self, keys: Sequence[tuple[str, str]]) -> list[SideEvent]:
        found = await self._stored.get_many(keys)
        self.asked.set()
        await self.go.wait()
        return found


async def test_what_changed_while_it_was_read_is_read_again(store: Store) -> None:
    grown = RandomRoom("12", 1, 5)
    event = grown.events[list(grown.events)[1]]
    stored = store.collection(SIDE_EVENTS)
    slow = Slow(stored)
    events = GraphEvents(store.log, slow)  # type: ignore[arg-type]
    room = Room(event.room_id, 0, grown.version, system_clock)
    outlier = side_event(event, OUTLIER)
    await stored.put(outlier)
    reading = asyncio.create_task(events.get_many(room, [event.event_id]))
    await slow.asked.wait()
    await stored.put(replace(outlier, standing=SOFT_FAILED))
    events.forget(room.room_id, event.event_id)
    slow.go.set()
    assert (await reading)[event.event_id].standing == OUTLIER
    assert (await events.get_many(room, [event.event_id]))[event.event_id].standing == SOFT_FAILED
