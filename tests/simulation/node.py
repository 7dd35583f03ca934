"""One server of a simulation: its real store, rooms and graph, its real ways in and out.

The network is simulated, and it can go down at any moment: what was in memory is lost, the store stays.
"""

import asyncio
import random
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import orjson

from federation.allowed import allowed_servers
from federation.backfill import VAIN_MS, Backfill
from federation.backoff import Backoff
from federation.client import FederationClient, request_target
from federation.errors import FederationError
from federation.gate import Gate
from federation.incoming import Incoming
from federation.inviting import Inviting
from federation.key_ring import KeyRing
from federation.missing_events import MissingEvents
from federation.outbound import Outbound
from federation.own_keys import OwnKeys
from federation.partial_rooms import PartialRooms
from federation.remote_rooms import RemoteRooms
from federation.resident import Resident
from homeserver.bus.consumer import Consumer
from homeserver.bus.in_process import InProcessBus
from homeserver.bus.replica import Replica
from homeserver.bus.to_others import ToOthers
from homeserver.config.options import Federation
from homeserver.config.options import RateLimits as RateLimitOptions
from homeserver.consumers.redactions import Redactions
from homeserver.consumers.successors import Successors
from homeserver.errors import MatrixError
from homeserver.graph.arrival import Arrival
from homeserver.graph.early_redactions import EarlyRedactions
from homeserver.graph.events import GraphEvents, KnownEvent
from homeserver.graph.learning import Learning
from homeserver.graph.merging import Merging
from homeserver.graph.outliers import Outliers
from homeserver.graph.outside import Outside
from homeserver.graph.past import Past
from homeserver.graph.receiving import Receiver
from homeserver.graph.states import States
from homeserver.graph.told import ToldGraph
from homeserver.graph.under_way import UnderWay
from homeserver.protocol.event_auth import auth_event_keys
from homeserver.protocol.events import Event, build_event
from homeserver.protocol.json_types import JsonObject
from homeserver.protocol.room_versions import RoomVersion
from homeserver.protocol.server_acl import ServerAcl
from homeserver.protocol.signing import SigningKey
from homeserver.rate_limits import RateLimits
from homeserver.rooms.aliases import Aliases
from homeserver.rooms.authoring import Author, EventTemplate, RoomProposal
from homeserver.rooms.creation import Creation
from homeserver.rooms.directory import Directory
from homeserver.rooms.membership import Membership
from homeserver.rooms.policy import NoPolicyServers, Policy
from homeserver.rooms.restricted import RestrictedJoins
from homeserver.rooms.room import Room
from homeserver.rooms.rooms import Rooms
from homeserver.rooms.told_servers import is_told_by
from homeserver.rooms.upgrade import Upgrade
from homeserver.rooms.visibility import Visibility
from homeserver.users.account_data import AccountData
from homeserver.users.accounts import Accounts
from homeserver.users.invite_permission import InvitePermission
from homeserver.users.passwords import Passwords
from homeserver.users.profiles import Profiles
from homeserver.users.users import Users
from storage.collection import Collection as Stored
from storage.log import Entry, Kind, ShardMap
from storage.records import (
    accounts,
    cursors,
    destinations,
    profiles,
    remote_keys,
    rooms,
    side_events,
    staged_events,
)
from storage.records.cursors import CURSORS, Cursor
from storage.records.remote_keys import RemoteKey, RemoteKeys
from storage.records.side_events import EARLY_REDACTIONS, GAPS, OUTLIER, SIDE_EVENTS
from storage.sqlite import open_store
from tests.simulation.answers import V1, answer_to
from tests.simulation.network import Network, SimulatedTransport
from tests.simulation.process import Process
from tests.simulation.virtual_time import EPOCH_MS, virtual_clock

SHARDS = ShardMap(1, 1)
SPECS = (
    *accounts.SPECS,
    *cursors.SPECS,
    *destinations.SPECS,
    *profiles.SPECS,
    *remote_keys.SPECS,
    *rooms.SPECS,
    *side_events.SPECS,
    *staged_events.SPECS,
)
A_YEAR_MS = 365 * 24 * 3600 * 1000


READ_BACK = 100
"""Servers that do not answer in time are asked again so often."""


class OtherServers(NamedTuple):
    """What of `federation.other_servers` is needed."""

    client: FederationClient
    backoff: Backoff
    allowed: ServerAcl


class Node:
    def __init__(self, name: str, folder: Path, network: Network) -> None:
        self.name = name
        self.key = SigningKey.from_seed("1", name.encode().ljust(32))
        self.process = Process()
        self.starts = 0
        self.is_up = False
        """Whether it has come up, and is not going down."""
        self.refused: dict[str, str] = {}
        """Events that this server said no to, and why."""
        self._uri = f"sqlite:///{folder / name}.db"
        self._network = network

    async def start(self) -> None:
        """Come up with what is stored."""
        self.process = Process()
        self.starts += 1
        await self.process.run(self._start())
        self._network.join(self.name, self)
        self.is_up = True

    async def crash(self) -> None:
        """Lose what is in memory, whatever is going on."""
        self._network.leave(self.name)
        self.is_up = False
        await self.store.close()
        await self.process.kill()

    async def _start(self) -> None:
        name, now = self.name, virtual_clock
        self.store = store = await open_store(self._uri, server_name=name, shards=SHARDS, specs=SPECS)
        self.rooms = Rooms(store.log, SHARDS, now, memory_budget=1 << 24)
        users = Users(store.log, SHARDS, now, server_name=name, max_users=100)
        passwords = Passwords(memory_kib=8, time_cost=1)
        known_accounts = Accounts(store.collection(accounts.ACCOUNTS), passwords, server_name=name)
        self.author = Author(name, self.key, now, Policy(NoPolicyServers(), now))
        side, gaps = store.collection(SIDE_EVENTS), store.collection(GAPS)
        self.events = GraphEvents(store.log, side)
        self.states = States(store.log, self.events)
        early = EarlyRedactions(store.collection(EARLY_REDACTIONS))
        receiver = Receiver(self.rooms, self.events, self.states, side, gaps, early, self.author.policy)
        outliers = Outliers(self.events, side)
        arrival = Arrival(self.rooms, self.events, outliers, gaps, name, now)
        visibility = Visibility(store.log, users, known_accounts)
        self._told = told = ToldGraph(self.rooms, self.events, self.states, side, visibility, known_accounts)
        # How it speaks with others.
        transport, allowed = SimulatedTransport(name, self._network), allowed_servers(Federation())
        self._backoff = Backoff(now, rng=random.Random(f"{name} {self.starts}"))
        client = FederationClient(name, self.key, transport, allowed, self._backoff)
        self._client = client
        self._keys = store.collection(remote_keys.REMOTE_KEYS)
        gate = Gate(KeyRing(OwnKeys(name, self.key, (), now), self._keys, transport, allowed, now))
        self._staged = store.collection(staged_events.STAGED_EVENTS)
        missing = MissingEvents(client, gate, receiver, self.events, outliers)
        outside = Outside(self.rooms, name)
        under_way = UnderWay(ToOthers(InProcessBus(self.rooms.shards, now)))
        past = Past(self.rooms, self.events, side, gaps, name)
        self._backfill = Backfill(name, client, gate, missing, self.events, past, now)
        self._incoming = Incoming(
            name,
            self.rooms,
            gate,
            receiver,
            missing,
            outside,
            under_way,
            Merging(self.rooms, self.author),
            self._staged,
            lambda shard: True,
            now,
        )
        self._backoff.on_change.append(self._incoming.heard_of)
        self._partial = PartialRooms(
            name,
            self.rooms,
            self.events,
            missing,
            Learning(self.rooms, self.events, self.states),
            self._incoming.is_whole,
            lambda shard: True,
        )
        # What its users do, beside what they send.
        restricted, limits = RestrictedJoins(self.rooms, name), RateLimits(RateLimitOptions(enabled=False))
        alone = Replica(InProcessBus(self.rooms.shards, now))
        self._resident = Resident(
            self.rooms, self.author, restricted, limits, gate, receiver, alone, under_way
        )
        names = Profiles(store.collection(profiles.PROFILES))
        self._membership = Membership(
            self.rooms, users, self.author, names, InvitePermission(users), restricted, known_accounts
        )
        self._membership.elsewhere = RemoteRooms(
            self.rooms,
            self.author,
            client,
            gate,
            arrival,
            missing,
            outside,
            Inviting(self.author, client, gate, receiver, told, under_way),
            under_way,
        )
        self.upgrade = Upgrade(
            self.rooms,
            self.author,
            Creation(self.rooms, self.author, self._membership, default_version="12"),
            Aliases(store.collection(rooms.ALIASES), self.rooms, self.author),
            Directory(store.collection(rooms.PUBLISHED), self.rooms, anyone_publishes=True),
            names,
            Successors(self.rooms, users, AccountData(users, now, shown={})),
            users,
        )
        others = OtherServers(client, self._backoff, allowed)
        run = f"run{self.starts}"
        outbound = Outbound(name, run, store, self.rooms, users, others, lambda shard: True, now)
        self.sender, kept = outbound.sender, outbound.server_rooms
        redactions = Redactions(store.log, self.rooms.stored, store.collection(SIDE_EVENTS))
        self._consumers = [
            Consumer(
                "redactions", store.log, self._cursors(), wants=redactions.wants, handle=redactions.handle
            ),
            Consumer("server_rooms", store.log, self._cursors(), wants=kept.wants, handle=kept.handle),
            Consumer(
                "sender",
                store.log,
                self._cursors(),
                wants=self.sender.wants,
                handle_batch=self.sender.handle,
                progress=self.sender,
            ),
        ]
        self.rooms.follow(self.events.on_room_entry)
        await self.rooms.start(lambda shard, tail: None)
        await users.start(lambda shard, tail: None)
        await outbound.start()
        for consumer in self._consumers:
            self.rooms.feed(consumer.on_entries)
            consumer.start({shard: writer.tail for shard, writer in self.rooms.writers.items()})
            consumer.own(self.rooms.writers)
        self._sweeping = [
            asyncio.create_task(self._incoming.keep_sweeping(), name="staged-events"),
            asyncio.create_task(self._partial.keep_sweeping(), name="partial-rooms"),
        ]

    def _cursors(self) -> Stored[Cursor]:
        return self.store.collection(CURSORS)

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

    async def answer(self, origin: str, target: str, content: JsonObject) -> JsonObject:
        """What another server is answered that has asked for something, or sends something."""
        return await self.process.run(self._answer(origin, target, content))

    async def _answer(self, origin: str, target: str, content: JsonObject) -> JsonObject:
        self._backoff.alive(origin)
        if target.startswith(f"{V1}/send/"):
            return {"pdus": await self._take(origin, content["pdus"])}
        return await answer_to(self._told, self._resident, origin, target, content)

    async def _take(self, origin: str, pdus: Sequence[JsonObject]) -> JsonObject:
        results: dict[str, str | None] = {}
        for room_id in sorted({pdu["room_id"] for pdu in pdus}):
            of_room = [pdu for pdu in pdus if pdu["room_id"] == room_id]
            results |= await self._incoming.take(origin, room_id, of_room)
        self.refused |= {event_id: why for event_id, why in results.items() if why is not None}
        return {event_id: {} if why is None else {"error": why} for event_id, why in results.items()}

    async def room_ids(self) -> list[str]:
        """The rooms that this server has."""
        found = await self.store.log.streams_keyed(SHARDS.room_shards(), Kind.EVENT, "m.room.create", "")
        return sorted(found)

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

    async def join(self, room_id: str, user_id: str, via: Sequence[str]) -> bool:
        """Have a user come into a room; whether one of the other servers could be asked, and let them in."""
        try:
            await self._membership.join(room_id, user_id, via=via)
        except MatrixError:
            return False
        return True

    def forge(self, room: Room, template: EventTemplate) -> str:
        """Sign an event upon all that the room has, whatever its rules say, and send it to everybody."""
        head, version = room.head, room.version
        keys = auth_event_keys(version, template.type, template.sender, template.state_key, template.content)
        grounds = [known.event_id for key in keys if (known := head.lookup(*key)) is not None]
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
            auth_events=grounds,
            depth=head.depth + 1,
            origin_server_ts=virtual_clock(),
            reference_hashes=dict.fromkeys([*head.tips, *grounds], ""),
        )
        for server in sorted(room.servers.keys() - {self.name}):
            self.process.spawn(self._send(server, event.event_id, orjson.loads(body)))
        return event.event_id

    async def _send(self, server: str, event_id: str, pdu: JsonObject) -> None:
        target = request_target(f"{V1}/send", f"forged {event_id}")
        with suppress(FederationError):
            await self._client.put(server, target, {"pdus": [pdu], "edus": []})

    async def own_events(self, room_id: str) -> dict[str, Event]:
        """The events of the room that it is for this server to tell others of."""
        page = await self._entries(room_id)
        own = [entry.event_id or "" for entry in page if is_told_by(self.name, entry)]
        known = await self.events.get_many(await self.room(room_id), own)
        return {event_id: each.event for event_id, each in known.items()}

    async def read_back(self, room: Room, event_ids: Collection[str]) -> Mapping[str, KnownEvent]:
        """Those of some events that are there once somebody has read all that other servers have."""
        for _ in range(READ_BACK):
            known = await self.events.get_many(room, event_ids)
            if len(known) == len(event_ids) and OUTLIER not in {each.standing for each in known.values()}:
                break
            for gap in list(room.gaps):
                while await self._backfill.fetch(room, gap):
                    pass
            await asyncio.sleep(VAIN_MS / 1000)
        return known

    async def is_idle(self) -> bool:
        """Whether everything was sent, all members are known, and nothing waits for what it follows upon."""
        if any(sum(consumer.lag().values()) or not consumer.lag() for consumer in self._consumers):
            return False
        if any(each.waiting or each.behind for each in self.sender.destinations.values()):
            return False
        if await self._staged.find("key", (), limit=1):
            return False
        return not any([(await self.room(room_id)).partial for room_id in await self.room_ids()])

    async def timeline(self, room_id: str) -> list[str]:
        """All events of the room in the log, in order."""
        return [entry.event_id or "" for entry in await self._entries(room_id)]

    async def _entries(self, room_id: str) -> list[Entry]:
        room = await self.room(room_id)
        found: list[Entry] = []
        while page := await self.store.log.page(
            room.shard, room_id, kind=Kind.EVENT, after=found[-1].position if found else 0, limit=1000
        ):
            found += page
        return found
