"""One server of a simulation: its real store, rooms and graph, its real ways in; the network is simulated."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import orjson

from federation.allowed import allowed_servers
from federation.gate import Gate
from federation.incoming import Incoming
from federation.key_ring import KeyRing
from federation.missing_events import MissingEvents
from federation.own_keys import OwnKeys
from federation.transport import Transport
from homeserver.config.options import Federation
from homeserver.graph.arrival import Arrival
from homeserver.graph.early_redactions import EarlyRedactions
from homeserver.graph.events import GraphEvents
from homeserver.graph.merging import Merging
from homeserver.graph.outliers import Outliers
from homeserver.graph.outside import Outside
from homeserver.graph.receiving import Outcome, Receiver
from homeserver.graph.states import States
from homeserver.graph.told import ToldGraph
from homeserver.protocol.event_auth import auth_event_keys
from homeserver.protocol.events import Event, build_event, parse_pdu
from homeserver.protocol.room_versions import RoomVersion
from homeserver.protocol.signing import SigningKey
from homeserver.rooms.authoring import Author, EventTemplate, RoomProposal
from homeserver.rooms.policy import NoPolicyServers, Policy
from homeserver.rooms.room import Room
from homeserver.rooms.room_event import RoomEvent
from homeserver.rooms.rooms import Rooms
from homeserver.rooms.told_servers import is_told_by, told_servers
from homeserver.rooms.visibility import Visibility
from homeserver.users.accounts import Accounts
from homeserver.users.passwords import Passwords
from homeserver.users.users import Users
from storage.log import Entry, Kind, ShardMap
from storage.records import accounts, remote_keys, side_events, staged_events
from storage.records.remote_keys import RemoteKey, RemoteKeys
from storage.records.side_events import EARLY_REDACTIONS, GAPS, SIDE_EVENTS
from storage.sqlite import open_store
from storage.store import Store
from tests.simulation.network import Network, SimulatedClient
from tests.simulation.virtual_time import EPOCH_MS, virtual_clock

SHARDS = ShardMap(1, 1)
SPECS = (*accounts.SPECS, *remote_keys.SPECS, *side_events.SPECS, *staged_events.SPECS)
A_YEAR_MS = 365 * 24 * 3600 * 1000


class Unasked(Transport):
    """All keys are known: nobody is asked for them."""

    def __init__(self) -> None:
        pass


class Node:
    def __init__(self, name: str, store: Store, network: Network) -> None:
        self.name = name
        self.key = SigningKey.from_seed("1", name.encode().ljust(32))
        self.store = store
        self._network = network
        now = virtual_clock
        self.rooms = Rooms(store.log, SHARDS, now, memory_budget=1 << 24)
        users = Users(store.log, SHARDS, now, server_name=name, max_users=100)
        passwords = Passwords(memory_kib=8, time_cost=1)
        known_accounts = Accounts(store.collection(accounts.ACCOUNTS), passwords, server_name=name)
        self.author = Author(name, self.key, now, Policy(NoPolicyServers(), now))
        side, gaps = store.collection(SIDE_EVENTS), store.collection(GAPS)
        self.events = GraphEvents(store.log, side)
        self.states = States(store.log, self.events)
        early = EarlyRedactions(store.collection(EARLY_REDACTIONS))
        self.receiver = Receiver(self.rooms, self.events, self.states, side, gaps, early, self.author.policy)
        outliers = Outliers(self.events, side)
        self.arrival = Arrival(self.rooms, self.events, outliers, gaps, name, now)
        self._keys = store.collection(remote_keys.REMOTE_KEYS)
        allowed = allowed_servers(Federation())
        self._gate = gate = Gate(
            KeyRing(OwnKeys(name, self.key, (), now), self._keys, Unasked(), allowed, now)
        )
        client = SimulatedClient(name, network)
        self._staged = store.collection(staged_events.STAGED_EVENTS)
        self.incoming = Incoming(
            name,
            self.rooms,
            gate,
            self.receiver,
            MissingEvents(client, gate, self.receiver, self.events, outliers),
            Outside(self.rooms, name),
            Merging(self.rooms, self.author),
            self._staged,
            lambda shard: True,
            now,
        )
        visibility = Visibility(store.log, users, known_accounts)
        self.told = ToldGraph(self.rooms, self.events, self.states, side, visibility, known_accounts)
        self._own: list[str] = []

    async def start(self) -> None:
        await self.rooms.start(lambda shard, tail: None)
        self.rooms.follow(self._tell)
        self._network.join(self.name, self.told, self.incoming.take)

    async def meet(self, others: "Sequence[Node]") -> None:
        """Know the keys of the others."""
        for other in others:
            key = RemoteKey(
                key_id=other.key.key_id,
                verify_key=other.key.verify_key_base64,
                valid_until=EPOCH_MS + A_YEAR_MS,
                current=True,
            )
            record = RemoteKeys(
                server_name=other.name,
                keys=(key,),
                fetched_ts=EPOCH_MS,
                valid_until=EPOCH_MS + A_YEAR_MS,
                answer=b"{}",
            )
            await self._keys.put(record)

    async def close(self) -> None:
        await self.incoming.close()
        await self.store.close()

    def _tell(self, shard: int, entry: Entry, room: Room | None, view: RoomEvent | None) -> None:
        """Send on what is for this server to send, as `federation.sender` does."""
        if room is None or not is_told_by(self.name, entry):
            return
        assert entry.event_id is not None
        self._own.append(entry.event_id)
        for server in sorted(told_servers(self.name, room, entry)):
            self._network.send(self.name, server, entry.stream, orjson.loads(entry.body))

    async def room(self, room_id: str) -> Room:
        room = await self.rooms.get(room_id)
        assert room is not None
        return room

    async def create(self, version: RoomVersion, templates: Sequence[EventTemplate]) -> Room:
        """A room of these events, the first of which is its create event."""
        room_id = f"!simulated:{self.name}"
        if version.room_id_is_create_hash:
            room_id = self.author.new_room_id(version, templates[0])
        room = Room(room_id, SHARDS.of_room(room_id), version, virtual_clock)
        self.rooms.adopt(room)
        await self.rooms.submit(room, RoomProposal(self.author, room, lambda head: templates))
        return room

    def forge(self, room: Room, template: EventTemplate) -> str:
        """Sign an event upon all that the room has, whatever its rules say, and send it to everybody."""
        head, version = room.head, room.version
        keys = auth_event_keys(version, template.type, template.sender, template.state_key, template.content)
        event, body = build_event(
            version,
            server_name=self.name,
            key=self.key,
            room_id=room.room_id,
            type=template.type,
            sender=template.sender,
            state_key=template.state_key,
            content=template.content,
            prev_events=head.tips,
            auth_events=[known.event_id for key in keys if (known := head.lookup(*key)) is not None],
            depth=head.depth + 1,
            origin_server_ts=virtual_clock(),
        )
        for server in sorted(room.servers.keys() - {self.name}):
            self._network.send(self.name, server, room.room_id, orjson.loads(body))
        return event.event_id

    async def come_into(self, room: Room, resident: "Node", template: EventTemplate) -> None:
        """Join a room by way of a server that is in it."""
        join = await self.author.event(room, template)
        assert await resident.receiver.receive(room, join, relay=True) is Outcome.ACCEPTED
        state, chain = await resident.told.joined(room, join.event_id, omit_members=False)
        told = [[parse_pdu(room.version, orjson.loads(body)) for body in each] for each in (state, chain)]
        assert await self.arrival.arrive(*told, join)

    async def own_events(self, room_id: str) -> dict[str, Event]:
        """The events that this server has told others of, which are durable here."""
        known = await self.events.get_many(await self.room(room_id), self._own)
        assert all(each.position is not None for each in known.values())
        return {event_id: each.event for event_id, each in known.items()}

    async def completed(self) -> None:
        """Wait until nothing waits for what it follows upon."""
        while await self._staged.find("key", ()):
            await asyncio.sleep(1.0)

    async def timeline(self, room_id: str) -> list[str]:
        """All events of the room in the log, in order."""
        room = await self.room(room_id)
        found: list[str] = []
        after = 0
        while page := await self.store.log.page(
            room.shard, room_id, kind=Kind.EVENT, after=after, limit=1000
        ):
            found += [entry.event_id or "" for entry in page]
            after = page[-1].position
        return found


async def open_node(folder: Path, name: str, network: Network) -> Node:
    uri = f"sqlite:///{folder / name}.db"
    store = await open_store(uri, server_name=name, shards=SHARDS, specs=SPECS)
    node = Node(name, store, network)
    await node.start()
    return node
