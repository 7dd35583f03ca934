"""All that sends things to other servers, put together."""

import asyncio
from collections.abc import Callable

import structlog

from federation.catching_up import CatchingUp
from federation.destinations import KnownDestinations
from federation.other_servers import OtherServers
from federation.sender import Sender
from federation.server_rooms import ServerRooms
from federation.told_devices import ToldDevices
from homeserver.clock import Clock
from homeserver.rooms.rooms import Rooms
from homeserver.tasks import end
from homeserver.users.users import Users
from storage.errors import StoreError
from storage.records import destinations as records
from storage.store import Store

log = structlog.get_logger(__name__)


class Outbound:
    """The sender with what it needs."""

    def __init__(
        self,
        server_name: str,
        run: str,
        store: Store,
        rooms: Rooms,
        users: Users,
        others: OtherServers,
        owns: Callable[[int], bool],
        now: Clock,
    ) -> None:
        """`run` is what this run of this replica is called, `owns` which shards it sees to."""
        stored_rooms = store.collection(records.SERVER_ROOMS)
        departures = store.collection(records.DEPARTURES)
        devices = ToldDevices(server_name, store.log, store.info.shards, rooms, users)
        self.server_rooms = ServerRooms(server_name, rooms, stored_rooms)
        self.sender = Sender(
            server_name,
            run,
            rooms,
            users,
            others.client,
            others.backoff,
            others.allowed,
            CatchingUp(server_name, rooms, stored_rooms, departures, devices),
            devices,
            store.collection(records.BEHIND),
            departures,
            owns,
            now,
        )
        self.destinations = KnownDestinations(
            rooms, users, self.sender, others.backoff, stored_rooms, store.collection(records.DESTINATIONS)
        )
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Raises StoreError."""
        await self.destinations.start()
        work = self.destinations.silences.keep_writing("which servers do not answer is not written")
        self._tasks.append(asyncio.create_task(work, name="silences"))

    async def close(self) -> None:
        await end(self._tasks)
        await self.sender.close()
        try:
            await self.destinations.silences.write()
        except StoreError as error:
            log.warning("which servers do not answer is not written", error=str(error))
