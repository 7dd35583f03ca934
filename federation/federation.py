"""This server as one among others, put together: the way out, what comes in, what others are told."""

import asyncio
from typing import NamedTuple

from federation.backfill import Backfill
from federation.edus import Edus
from federation.events import EventRoutes
from federation.gate import Gate
from federation.handshakes import HandshakeRoutes
from federation.incoming import Incoming
from federation.invites import InviteRoutes
from federation.inviting import Inviting
from federation.key_server import KeyServerRoutes
from federation.media import MediaRoutes
from federation.missing_events import MissingEvents
from federation.other_servers import OtherServers
from federation.partial_rooms import PartialRooms
from federation.public_rooms import PublicRoomRoutes
from federation.queries import QueryRoutes
from federation.received_invites import ReceivedInvites
from federation.received_messages import ReceivedMessages
from federation.remote_rooms import RemoteRooms
from federation.resident import Resident
from federation.spaces import SpaceRoutes
from federation.third_party_invites import ThirdPartyInviteRoutes
from federation.transactions import TransactionRoutes
from federation.user_keys import UserKeyRoutes
from federation.version import VersionRoutes
from homeserver.bus.replica import Replica
from homeserver.bus.to_others import ToOthers
from homeserver.clock import Clock
from homeserver.config import Config
from homeserver.e2ee.remote_lists import RemoteLists
from homeserver.e2ee.to_device import ToDevice
from homeserver.e2ee.told_keys import ToldKeys
from homeserver.graph.arrival import Arrival
from homeserver.graph.early_redactions import EarlyRedactions
from homeserver.graph.events import GraphEvents
from homeserver.graph.learning import Learning
from homeserver.graph.merging import Merging
from homeserver.graph.outliers import Outliers
from homeserver.graph.outside import Outside
from homeserver.graph.past import Past
from homeserver.graph.receiving import Receiver
from homeserver.graph.states import States
from homeserver.graph.told import ToldGraph
from homeserver.graph.under_way import UnderWay
from homeserver.media.repository import MediaRepository
from homeserver.media.thumbnails import Thumbnails
from homeserver.presence.presence import Presence
from homeserver.rate_limits import RateLimits
from homeserver.rooms.aliases import Aliases
from homeserver.rooms.authoring import Author
from homeserver.rooms.directory import Directory
from homeserver.rooms.ephemeral import Typing
from homeserver.rooms.membership import InvitePermission
from homeserver.rooms.receipts import Receipts
from homeserver.rooms.restricted import RestrictedJoins
from homeserver.rooms.rooms import Rooms
from homeserver.rooms.spaces import Hierarchy
from homeserver.rooms.third_party_invites import ThirdPartyInvites
from homeserver.rooms.visibility import Visibility
from homeserver.tasks import end
from homeserver.users.accounts import Accounts
from homeserver.users.profiles import Profiles
from rest.routes import Routes
from storage.records import received_messages as received_message_records
from storage.records import side_events as side_event_records
from storage.records import staged_events as staged_event_records
from storage.store import Store


class Domain(NamedTuple):
    """What of this server others have to do with."""

    rooms: Rooms
    author: Author
    restricted: RestrictedJoins
    permission: InvitePermission
    limits: RateLimits
    visibility: Visibility
    hierarchy: Hierarchy
    directory: Directory
    aliases: Aliases
    third_party: ThirdPartyInvites
    accounts: Accounts
    profiles: Profiles
    told_keys: ToldKeys
    typing: Typing
    receipts: Receipts
    presence: Presence
    to_device: ToDevice
    remote_lists: RemoteLists
    media: MediaRepository
    thumbnails: Thumbnails
    replica: Replica
    to_others: ToOthers


class Federation:
    """Other servers, as far as this one has to do with them."""

    def __init__(
        self,
        config: Config,
        others: OtherServers,
        store: Store,
        domain: Domain,
        now: Clock,
    ) -> None:
        name = config.server_name
        rooms = domain.rooms
        self.others = others
        side_events = store.collection(side_event_records.SIDE_EVENTS)
        self.graph_events = GraphEvents(store.log, side_events)
        rooms.follow(self.graph_events.on_room_entry)
        self.states = States(store.log, self.graph_events)
        gaps = store.collection(side_event_records.GAPS)
        early_redactions = EarlyRedactions(store.collection(side_event_records.EARLY_REDACTIONS))
        self.receiver = Receiver(
            rooms,
            self.graph_events,
            self.states,
            side_events,
            gaps,
            early_redactions,
            domain.author.policy,
        )
        outliers = Outliers(self.graph_events, side_events)
        self.arrival = Arrival(rooms, self.graph_events, outliers, gaps, name, now)
        self.gate = Gate(others.key_ring)
        missing = MissingEvents(others.client, self.gate, self.receiver, self.graph_events, outliers)
        past = Past(rooms, self.graph_events, side_events, gaps, name)
        self.backfill = Backfill(name, others.client, self.gate, missing, self.graph_events, past, now)
        outside = Outside(rooms, name)
        under_way = UnderWay(domain.to_others)
        self.incoming = Incoming(
            name,
            rooms,
            self.gate,
            self.receiver,
            missing,
            outside,
            under_way,
            Merging(rooms, domain.author),
            store.collection(staged_event_records.STAGED_EVENTS),
            domain.replica.owns,
            now,
        )
        self.partial_rooms = PartialRooms(
            name,
            rooms,
            self.graph_events,
            missing,
            Learning(rooms, self.graph_events, self.states),
            self.incoming.is_whole,
            domain.replica.owns,
        )
        self.edus = Edus(
            domain.limits,
            rooms,
            domain.typing,
            domain.receipts,
            domain.presence,
            domain.to_device,
            ReceivedMessages(store.collection(received_message_records.RECEIVED_MESSAGES), now),
            domain.remote_lists,
        )
        self.told = told = ToldGraph(
            rooms, self.graph_events, self.states, side_events, domain.visibility, domain.accounts
        )
        inviting = Inviting(domain.author, others.client, self.gate, self.receiver, told, under_way)
        self.remote_rooms = RemoteRooms(
            rooms,
            domain.author,
            others.client,
            self.gate,
            self.arrival,
            missing,
            outside,
            inviting,
            under_way,
        )
        received_invites = ReceivedInvites(
            rooms, domain.accounts, domain.permission, domain.limits, domain.author, self.gate, outside
        )
        self.resident = resident = Resident(
            rooms,
            domain.author,
            domain.restricted,
            domain.limits,
            self.gate,
            self.receiver,
            domain.replica,
            under_way,
        )
        self.routes: list[Routes] = [
            VersionRoutes(),
            KeyServerRoutes(self.others.own_keys, self.others.notary),
            QueryRoutes(domain.profiles, domain.accounts, domain.aliases),
            PublicRoomRoutes(domain.directory, shown=config.rooms.directory_for_servers),
            SpaceRoutes(domain.hierarchy),
            UserKeyRoutes(domain.told_keys),
            MediaRoutes(domain.media, domain.thumbnails),
            EventRoutes(told, name, now),
            TransactionRoutes(self.incoming, self.edus),
            HandshakeRoutes(resident, told),
            InviteRoutes(received_invites),
            ThirdPartyInviteRoutes(
                resident, domain.limits, inviting, domain.third_party, domain.accounts, name
            ),
        ]
        others.backoff.on_change.append(self.incoming.heard_of)
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Go on with what was left undone."""
        self._tasks += [
            asyncio.create_task(self.incoming.keep_sweeping(), name="staged-events"),
            asyncio.create_task(self.partial_rooms.keep_sweeping(), name="partial-rooms"),
        ]

    async def close(self) -> None:
        """End what is being done and asked."""
        await end(self._tasks)
        await self.incoming.close()
        await self.partial_rooms.close()
        await self.backfill.close()
        await self.others.close()
