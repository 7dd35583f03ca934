"""Rooms that were joined before their members were told: what is missing is asked for behind the scenes.

Till then the room can be read and written in, and what others say there waits (`Incoming`).

spec: server-server "Joining Rooms" (`omit_members`)
"""

import asyncio
from collections.abc import Callable, Sequence
from itertools import count

import structlog

from federation.errors import FederationError
from federation.missing_events import MissingEvents
from homeserver.errors import MatrixError
from homeserver.graph.events import GraphEvents
from homeserver.graph.learning import Learning
from homeserver.rooms.room import Partial, Room
from homeserver.rooms.room_event import RoomEvent
from homeserver.rooms.rooms import Rooms
from homeserver.rooms.servers import takes_part
from homeserver.tasks import end
from storage.errors import StoreError
from storage.log import Entry, Kind

log = structlog.get_logger(__name__)

AT_ONCE = 4
"""Rooms whose states are asked for at once: each may take as much memory as its answer has bytes."""
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 300.0
SWEEP_SECONDS = 300.0
ASKED = 5
"""Servers asked before a pause."""


class PartialRooms:
    """Makes them whole."""

    def __init__(
        self,
        server_name: str,
        rooms: Rooms,
        events: GraphEvents,
        missing: MissingEvents,
        learning: Learning,
        on_whole: Callable[[str], None],
        owns: Callable[[int], bool],
    ) -> None:
        """`on_whole` is told of rooms, `owns`: whether this replica is the owner of a room shard."""
        self._server_name = server_name
        self._rooms = rooms
        self._events = events
        self._missing = missing
        self._learning = learning
        self._on_whole = on_whole
        self._owns = owns
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        rooms.follow(self._on_room_entry)

    def _on_room_entry(self, shard: int, entry: Entry, room: Room | None, view: RoomEvent | None) -> None:
        if entry.kind is Kind.PARTIAL and self._owns(shard):
            if entry.body:
                self._complete_soon(entry.stream)
            else:
                self._on_whole(entry.stream)

    async def keep_sweeping(self) -> None:
        """Go on with what a stop left partial, or a replica that is gone, until cancelled."""
        while True:
            try:
                found = await self._rooms.log.streams_keyed(
                    self._rooms.shards.room_shards(), Kind.PARTIAL, "state", ""
                )
                for room_id, entry in found.items():
                    if entry.body and self._owns(self._rooms.shards.of_room(room_id)):
                        self._complete_soon(room_id)
            except StoreError as error:
                log.warning("partial rooms cannot be read", error=str(error))
            await asyncio.sleep(SWEEP_SECONDS)

    async def close(self) -> None:
        await end(self._tasks.values())

    def _complete_soon(self, room_id: str) -> None:
        if room_id not in self._tasks:
            task = asyncio.create_task(self._complete(room_id), name="partial-room")
            self._tasks[room_id] = task
            task.add_done_callback(lambda _: self._tasks.pop(room_id, None))

    async def _complete(self, room_id: str) -> None:
        """Until the room is whole, or nobody of this server is in it any more."""
        pause = FIRST_PAUSE_SECONDS
        for attempt in count():
            room = await self._rooms.get(room_id)
            if room is None or room.partial is None or not takes_part(room, self._server_name):
                return
            try:
                async with self._slots:
                    if await self._learn(room, room.partial, attempt):
                        return
            except (StoreError, MatrixError) as error:
                log.warning("a room stays partial", room_id=room_id, error=str(error))
            except Exception:
                log.exception("a room stays partial", room_id=room_id)
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    async def _learn(self, room: Room, partial: Partial, attempt: int) -> bool:
        """Whether one of the servers in the room tells what its state is."""
        known = await self._events.get_many(room, [partial.join])
        join = known[partial.join].event
        for server in self._who_may_tell(partial.servers, attempt):
            try:
                told = await self._missing.told_state(room, join, server)
            except FederationError as error:
                log.info("state not told", room_id=room.room_id, server=server, reason=error.reason)
            else:
                if await self._learning.learn(room, join, told):
                    return True
                log.info("state told that does not allow the join", room_id=room.room_id, server=server)
        return False

    def _who_may_tell(self, servers: Sequence[str], attempt: int) -> list[str]:
        """Others each time: the first ones may be gone for good."""
        others = [server for server in servers if server != self._server_name]
        first = attempt * ASKED % max(len(others), 1)
        return (others[first:] + others[:first])[:ASKED]
