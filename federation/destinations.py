"""What is known of the servers to which things are sent, over restarts too; see `homeserver.destinations`."""

from collections.abc import AsyncIterator, Sequence

from federation.backoff import Backoff, Silence
from federation.sender import Sender
from homeserver.destinations import DestinationState
from homeserver.errors import not_found
from homeserver.rooms.rooms import Rooms
from homeserver.users.users import Users
from homeserver.write_behind import WriteBehind
from storage.collection import Collection
from storage.records.destinations import Destination, ServerRoom

READ_AT_ONCE = 1_000


class KnownDestinations:
    """The `Destinations` of the server."""

    def __init__(
        self,
        rooms: Rooms,
        users: Users,
        sender: Sender,
        backoff: Backoff,
        server_rooms: Collection[ServerRoom],
        stored: Collection[Destination],
    ) -> None:
        self._rooms = rooms
        self._users = users
        self._sender = sender
        self._backoff = backoff
        self._server_rooms = server_rooms
        self._stored = stored
        self.silences = WriteBehind(stored)
        backoff.on_change.append(self._changed)

    async def start(self) -> None:
        """Go on leaving those alone that did not answer. Raises StoreError."""
        after = ""
        while records := await self._stored.find("key", (), after=after, limit=READ_AT_ONCE):
            for record in records:
                if record.failing_since:
                    silence = Silence(record.failing_since, record.pause, record.retry_at)
                    self._backoff.restore(record.server_name, silence)
            after = records[-1].server_name

    def _changed(self, server: str, silence: Silence | None) -> None:
        since, pause, retry_at = (silence.since, silence.pause, silence.retry_at) if silence else (0, 0, 0)
        self.silences.noted[server, ""] = Destination(
            server_name=server, failing_since=since, retry_at=retry_at, pause=pause
        )
        if silence is None:
            self._sender.wake(server)

    def known(self) -> Sequence[DestinationState]:
        return [self._state(name) for name in sorted(self._known_names())]

    def _known_names(self) -> set[str]:
        return {*self._sender.destinations, *self._backoff.silent()}

    async def all(self, *, after: str, limit: int) -> list[DestinationState]:
        names = {name for name in self._known_names() if name > after}
        in_rooms = 0
        async for name in self._in_rooms(after):
            names.add(name)
            in_rooms += 1
            if in_rooms == limit:
                break
        return [self._state(name) for name in sorted(names)[:limit]]

    async def count(self) -> int:
        return len(self._known_names() | {name async for name in self._in_rooms("")})

    async def _in_rooms(self, after: str) -> AsyncIterator[str]:
        """Those that are in rooms, by name. Each is skipped to: a server may be in very many rooms."""
        while found := await self._server_rooms.find("key", (), after=after, limit=1):
            after = found[0].server_name
            yield after

    async def get(self, server_name: str) -> DestinationState:
        known = server_name in self._sender.destinations or self._backoff.silence(server_name)
        if not known and not await self.rooms(server_name, after="", limit=1):
            raise not_found("This server has had nothing to do with that one")
        return self._state(server_name)

    async def rooms(self, server_name: str, *, after: str, limit: int) -> list[str]:
        found = await self._server_rooms.find("key", (server_name,), after=after, limit=limit)
        return [record.room_id for record in found]

    async def count_rooms(self, server_name: str) -> int:
        return await self._server_rooms.count("key", (server_name,))

    def retry(self, server_name: str) -> None:
        self._backoff.alive(server_name)
        self._sender.wake(server_name)

    def _state(self, name: str) -> DestinationState:
        silence = self._backoff.silence(name)
        destination = self._sender.destinations.get(name)
        behind = destination.behind if destination is not None else {}
        return DestinationState(
            name,
            silence.since if silence is not None else 0,
            silence.retry_at if silence is not None else 0,
            silence.pause if silence is not None else 0,
            destination.last_success if destination is not None else 0,
            destination.waiting if destination is not None else 0,
            sum(self._tail(shard) - seq for shard, seq in behind.items()),
        )

    def _tail(self, shard: int) -> int:
        return (self._rooms.writers.get(shard) or self._users.writers[shard]).tail
