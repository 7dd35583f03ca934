"""What a server has missed while it was away, by what the log has.

Of each room that it is in the last events of this server's users, or, if there were many, the newest: what
lies before it the server asks for by itself. Of those that it was put out of, that. Messages to devices are
all of them in the log.
"""

from collections.abc import AsyncIterator, Sequence

from federation.outgoing import DeviceNews, Outgoing, outgoing_edu, outgoing_event
from federation.transactions import MAX_EDUS, MAX_PDUS
from homeserver.protocol.identifiers import server_name_of
from homeserver.rooms.broken_rooms import LeftOutIfBroken
from homeserver.rooms.rooms import Rooms
from homeserver.rooms.told_servers import is_told_by, told_among
from homeserver.sync.device_lists import STREAM as DEVICE_LISTS
from storage.collection import Collection
from storage.log import Entry, Kind, ShardMap
from storage.records.destinations import Departure, ServerRoom

PAGE = 500


class CatchingUp:
    """Reads it."""

    def __init__(
        self,
        server_name: str,
        rooms: Rooms,
        server_rooms: Collection[ServerRoom],
        departures: Collection[Departure],
        devices: DeviceNews,
    ) -> None:
        self._server_name = server_name
        self._rooms = rooms
        self._log = rooms.log
        self._server_rooms = server_rooms
        self._departures = departures
        self._devices = devices

    async def missed(self, server: str, shard: int, after: int) -> AsyncIterator[Sequence[Outgoing]]:
        """What concerns a server in a shard after an entry, as much together as goes into a transaction.

        Raises StoreError, MatrixError 503.
        """
        if shard >= ShardMap.USER_BASE:
            async for messages in self._messages(server, shard, after):
                yield messages
            return
        waiting: list[Outgoing] = []
        async for room_id in self._rooms_of(server, shard):
            with LeftOutIfBroken(room_id):
                events = await self._events(room_id, server, after)
                waiting += [outgoing_event(shard, entry) for entry in events]
            while len(waiting) >= MAX_PDUS:
                yield waiting[:MAX_PDUS]
                del waiting[:MAX_PDUS]
        if waiting:
            yield waiting
        async for puttings_out in self._puttings_out(server, shard, after):
            yield puttings_out
        async for updates in self._device_lists(server, shard, after):
            yield updates

    async def _rooms_of(self, server: str, shard: int) -> AsyncIterator[str]:
        """The rooms of a shard in which the server has users, or may have: of partial ones few are known."""
        changed = await self._log.streams_keyed(range(shard, shard + 1), Kind.PARTIAL, "state", "")
        partial = {room_id for room_id, entry in changed.items() if entry.body}
        for room_id in partial:
            yield room_id
        after = ""
        while records := await self._server_rooms.find("key", (server,), after=after, limit=PAGE):
            for record in records:
                room_id = record.room_id
                if room_id not in partial and self._rooms.shards.of_room(room_id) == shard:
                    yield room_id
            after = records[-1].room_id

    async def _events(self, room_id: str, server: str, after: int) -> Sequence[Entry]:
        """What the server has to have of a room, the oldest first."""
        room = await self._rooms.get(room_id)
        if room is None or room.last_seq <= after or server not in room.servers:
            return ()
        before: int | None = None
        while True:
            page = await self._log.page(
                room.shard,
                room_id,
                kind=Kind.EVENT,
                after=after,
                before=before,
                newest_first=True,
                limit=MAX_PDUS + 1,
            )
            told = [
                entry
                for entry in reversed(page)
                if is_told_by(self._server_name, entry)
                and await told_among({server}, self._rooms, room, entry)
            ]
            if len(page) <= MAX_PDUS:
                return told
            if told:
                return told[-1:]
            before = page[-1].position

    async def _puttings_out(self, server: str, shard: int, after: int) -> AsyncIterator[Sequence[Outgoing]]:
        """What put the server out of rooms; what it has heard of, or is in again, is forgotten."""
        while records := await self._departures.find("key", (server, shard), limit=MAX_PDUS):
            missed: list[int] = []
            for each in records:
                with LeftOutIfBroken(each.room_id):
                    room = await self._rooms.get(each.room_id)
                    if each.seq > after and room is not None and server not in room.servers:
                        missed.append(each.seq)
            if missed:
                entries = await self._log.entries(shard, missed)
                yield [outgoing_event(shard, entry) for entry in entries]
            for each in records:
                await self._departures.delete(server, shard, each.room_id, each.seq)

    async def _messages(self, server: str, shard: int, after: int) -> AsyncIterator[Sequence[Outgoing]]:
        while page := await self._log.page(shard, server, kind=Kind.OUTGOING, after=after, limit=MAX_EDUS):
            yield [outgoing_edu(shard, entry) for entry in page]
            after = page[-1].seq

    async def _device_lists(self, server: str, shard: int, after: int) -> AsyncIterator[Sequence[Outgoing]]:
        while page := await self._log.page(
            shard, DEVICE_LISTS, kind=Kind.DEVICE_LIST, after=after, limit=MAX_EDUS
        ):
            after = page[-1].seq
            by_user: dict[str, list[Entry]] = {}
            for entry in page:
                if entry.key is not None and self._is_own(entry.key):
                    by_user.setdefault(entry.key, []).append(entry)
            for user_id, announcements in by_user.items():
                if server in await self._devices.servers(user_id):
                    # The newest of each type will do: of devices before it the server asks by itself.
                    newest = {
                        edu["edu_type"]: edu
                        for announcement in announcements
                        for edu in await self._devices.updates(announcement)
                    }
                    yield [Outgoing(shard, after, edu, is_event=False) for edu in newest.values()]

    def _is_own(self, user_id: str) -> bool:
        return server_name_of(user_id) == self._server_name
