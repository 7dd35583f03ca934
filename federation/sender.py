"""Sends what happens here to other servers: events of rooms, changes of devices, messages.

It follows the log like every consumer. What is handed over waits in memory, one queue for each server; before
the cursor moves, it is noted of which servers something is still to be sent (`Behind`), so a crash loses
nothing: those catch up from there.
"""

import asyncio
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence, Set

from federation.backoff import Backoff
from federation.catching_up import CatchingUp
from federation.client import FederationClient
from federation.destination import Destination
from federation.outgoing import DeviceNews, Outgoing, outgoing_edu, outgoing_event
from homeserver.clock import Clock
from homeserver.outbox import Message
from homeserver.protocol.canonical_json import encode_lenient
from homeserver.protocol.identifiers import server_name_of
from homeserver.protocol.json_types import JsonObject
from homeserver.protocol.server_acl import ServerAcl
from homeserver.rooms.rooms import Rooms
from homeserver.rooms.told_servers import is_own_membership, is_told_by, told_servers, who_joins
from homeserver.shard_writer import Append
from homeserver.tasks import end
from homeserver.users.users import Users
from storage.collection import Collection
from storage.log import Entry, Kind
from storage.records.destinations import Behind, Departure

DEPARTURES_KEPT_MS = 90 * 24 * 3600 * 1000
FORGOTTEN_FOR_EACH = 2
"""Departures from long ago, for each new one."""


class Sender:
    """The queues to all other servers; an `Outbox`."""

    def __init__(
        self,
        server_name: str,
        run: str,
        rooms: Rooms,
        users: Users,
        client: FederationClient,
        backoff: Backoff,
        allowed: ServerAcl,
        catching_up: CatchingUp,
        devices: DeviceNews,
        behind: Collection[Behind],
        departures: Collection[Departure],
        owns: Callable[[int], bool],
        now: Clock,
    ) -> None:
        """`run` is what this run of this replica is called: no other one uses its transaction ids.

        `owns`: whether a shard is for this replica to send of.
        """
        self._server_name = server_name
        self._rooms = rooms
        self._users = users
        self._client = client
        self._backoff = backoff
        self._allowed = allowed
        self._catching_up = catching_up
        self._devices = devices
        self._behind = behind
        self._departures = departures
        self._owns = owns
        self._now = now
        self._stored: dict[tuple[int, str], int] = {}
        """(shard, server) → what is stored of it."""
        numbers = itertools.count(1)
        self._new_transaction = lambda: f"{run}-{next(numbers)}"
        self.destinations: dict[str, Destination] = {}

    def wake(self, server: str) -> None:
        """A server is alive, or is to be tried at once."""
        if destination := self.destinations.get(server):
            destination.wake()

    async def close(self) -> None:
        await end(each.task for each in self.destinations.values())

    # From the log

    def wants(self, entry: Entry) -> bool:
        """Whether an entry of a room shard is for others."""
        if entry.kind is Kind.DEVICE_LIST:
            return entry.key is not None and server_name_of(entry.key) == self._server_name
        return is_told_by(self._server_name, entry) or is_own_membership(self._server_name, entry)

    async def handle(self, shard: int, entries: Sequence[Entry]) -> None:
        """Hand over what happened in rooms. Raises StoreError, MatrixError 503."""
        for entry in entries:
            if entry.kind is Kind.DEVICE_LIST:
                user_id = entry.key or ""
                if servers := await self._devices.servers(user_id):
                    updates = await self._devices.updates(entry)
                    self._add(servers, [Outgoing(shard, entry.seq, edu, is_event=False) for edu in updates])
                continue
            room = await self._rooms.get(entry.stream)
            if room is None:
                continue
            if servers := await told_servers(self._server_name, self._rooms, room, entry):
                if is_told_by(self._server_name, entry):
                    if gone := servers - room.servers.keys():
                        await self._note_departures(gone, shard, entry)
                    self._add(servers, [outgoing_event(shard, entry)])
                if (newcomer := who_joins(self._server_name, room, entry)) is not None:
                    newest = await self._devices.newest(newcomer)
                    self._add(servers, [Outgoing(shard, entry.seq, edu, is_event=False) for edu in newest])

    async def _note_departures(self, servers: Set[str], shard: int, entry: Entry) -> None:
        """Servers were put out of a room: those that are away are told of it when they are back.

        Forgets some of those that have been away for too long.
        """
        now = self._now()
        await self._departures.put_many(
            [
                Departure(
                    server_name=server,
                    shard=shard,
                    room_id=entry.stream,
                    seq=entry.seq,
                    expires_ts=now + DEPARTURES_KEPT_MS,
                )
                for server in servers
            ]
        )
        limit = FORGOTTEN_FOR_EACH * len(servers)
        for old in await self._departures.find("by_expiry", before=now + 1, limit=limit):
            await self._departures.delete(old.server_name, old.shard, old.room_id, old.seq)

    @staticmethod
    def wants_of_users(entry: Entry) -> bool:
        return entry.kind is Kind.OUTGOING

    async def handle_of_users(self, shard: int, entries: Sequence[Entry]) -> None:
        """Hand over messages."""
        for entry in entries:
            self._add([entry.stream], [outgoing_edu(shard, entry)])

    async def begin(self, shard: int) -> None:
        """Go on with the servers to which not all of a shard was sent. Raises StoreError."""
        for record in await self._behind.find("key", (shard,), limit=100_000):
            self._stored[shard, record.server_name] = record.seq
            if destination := self._destination(record.server_name):
                destination.behind.setdefault(shard, record.seq)
                destination.work()

    async def reached(self, shard: int, seq: int) -> None:
        """Note to whom something up to this entry is still to be sent. Raises StoreError."""
        records = [
            Behind(shard=shard, server_name=name, seq=upto)
            for name, destination in self.destinations.items()
            if (upto := destination.undelivered(shard)) is not None
            and upto < seq
            and self._stored.get((shard, name)) != upto
        ]
        if records:
            await self._behind.put_many(records)
            self._stored.update(((shard, record.server_name), record.seq) for record in records)
        for name in [name for at, name in self._stored if at == shard]:
            if name not in self.destinations or self.destinations[name].undelivered(shard) is None:
                await self._forget(name, shard)

    def _add(self, servers: Iterable[str], items: Sequence[Outgoing]) -> None:
        for server in servers:
            if destination := self._destination(server):
                for item in items:
                    destination.add(item)

    def _destination(self, server: str) -> Destination | None:
        """None for a server to which nothing is sent."""
        destination = self.destinations.get(server)
        if destination is None and server != self._server_name and self._allowed.allows(server):
            destination = self.destinations[server] = Destination(
                server,
                self._server_name,
                self._client,
                self._backoff,
                self._catching_up,
                self._new_transaction,
                self._delivered,
                self._forget,
                self._owns,
                self._now,
            )
        return destination

    async def _delivered(self, items: Sequence[Outgoing]) -> None:
        """Messages that were delivered need not stay."""
        by_shard: dict[int, list[int]] = {}
        for item in items:
            if item.shard in self._users.writers:
                by_shard.setdefault(item.shard, []).append(item.seq)
        for shard, seqs in by_shard.items():
            await self._rooms.log.remove(shard, seqs)

    async def _forget(self, server: str, shard: int) -> None:
        """The server has everything of the shard, or another replica sees to it."""
        if self._stored.pop((shard, server), None) is not None and self._owns(shard):
            await self._behind.delete(shard, server)

    # The outbox

    def tell(self, servers: Iterable[str], edu_type: str, key: str, content: JsonObject) -> None:
        for server in servers:
            if destination := self._destination(server):
                destination.tell(edu_type, key, content)

    async def send(self, messages: Mapping[str, Sequence[Message]]) -> None:
        entries = [
            Entry(
                kind=Kind.OUTGOING,
                stream=server,
                body=encode_lenient(message.edu),
                txn=message.txn,
                ts=self._now(),
            )
            for server, of_server in messages.items()
            if self._allowed.allows(server)
            for message in of_server
        ]
        # Each by itself: of some an earlier attempt may have been stored.
        await asyncio.gather(*(self._users.submit(entry.stream, Append([entry])) for entry in entries))
