"""What people do in rooms, and find of them."""

from client_api.account_data import AccountDataRoutes, TagRoutes
from client_api.delayed_events import DelayedEventRoutes, Scheduling
from client_api.directory import AliasRoutes, DirectoryRoutes
from client_api.events import HistoryRoutes, SendRoutes, StateRoutes
from client_api.push_rules import PushRuleRoutes
from client_api.receipts import ReceiptRoutes, TypingRoutes
from client_api.relations import RelationRoutes
from client_api.reporting import ReportRoutes
from client_api.rooms import RoomRoutes
from client_api.search import SearchRoutes
from client_api.spaces import SpaceRoutes
from federation.foreign_rooms import RemoteForeignRooms
from federation.policy_servers import RemotePolicyServers
from homeserver.app.ground import Ground
from homeserver.app.people import People
from homeserver.consumers.redactions import Redactions
from homeserver.consumers.search import SearchFiling
from homeserver.consumers.successors import Successors
from homeserver.consumers.superseded import Superseded
from homeserver.push.rules import PUSH_RULES, shown_push_rules
from homeserver.push.settings import PushRuleSettings
from homeserver.reports import Reports
from homeserver.rooms.access import RoomAccess
from homeserver.rooms.aliases import Aliases
from homeserver.rooms.authoring import Author
from homeserver.rooms.bundling import Bundling
from homeserver.rooms.creation import Creation
from homeserver.rooms.delayed_events import DelayedEvents
from homeserver.rooms.directory import Directory
from homeserver.rooms.due_events import DueEvents
from homeserver.rooms.ephemeral import Typing
from homeserver.rooms.foreign_rooms import ForeignRooms, NoForeignRooms
from homeserver.rooms.guests import Guests
from homeserver.rooms.history import History
from homeserver.rooms.membership import Membership
from homeserver.rooms.new_room import NewRooms
from homeserver.rooms.policy import NoPolicyServers, Policy, PolicyServers
from homeserver.rooms.receipts import Receipts
from homeserver.rooms.relations import Relations
from homeserver.rooms.restricted import RestrictedJoins
from homeserver.rooms.sending import Sending
from homeserver.rooms.spaces import Hierarchy
from homeserver.rooms.state_reader import StateReader
from homeserver.rooms.summary import Summaries
from homeserver.rooms.third_party_invites import ThirdPartyInvites
from homeserver.rooms.timestamp_to_event import TimestampToEvent
from homeserver.rooms.told_ephemeral import ToldEphemeral
from homeserver.rooms.upgrade import Upgrade
from homeserver.rooms.visibility import Visibility
from homeserver.search.searching import Search
from homeserver.users.account_data import AccountData
from homeserver.users.invite_permission import InvitePermission
from homeserver.users.tags import Tags
from rest.routes import Routes
from storage.records import delayed_events as delayed_event_records
from storage.records import rooms as room_records
from storage.records import side_events as side_event_records


class Conversations:
    """Rooms from their creation to their upgrade, what is said in them, and how they are found."""

    def __init__(self, ground: Ground, people: People) -> None:
        config, store, collection, now = ground.config, ground.store, ground.collection, ground.now
        rooms, users, name, others = ground.rooms, ground.users, ground.name, ground.other_servers
        policy_servers: PolicyServers = NoPolicyServers()
        foreign_rooms: ForeignRooms = NoForeignRooms()
        if others is not None:
            policy_servers = RemotePolicyServers(others.client)
            foreign_rooms = RemoteForeignRooms(name, others.client, now)
        self.author = author = Author(name, ground.signing_key, now, Policy(policy_servers, now))
        self.visibility = visibility = Visibility(store.log, users, people.accounts)
        self.bundling = Bundling(store.log, rooms.stored, visibility, now)
        self.access = access = RoomAccess(rooms, visibility)
        self.history = history = History(
            rooms, users, access, visibility, self.bundling, epoch=ground.epoch, now=now
        )
        self.state = state = StateReader(rooms, access, history, now)
        timestamp_to_event = TimestampToEvent(rooms, access, visibility, history)
        relations = Relations(rooms, access, history, visibility)
        self.permission = InvitePermission(users)
        self.restricted = RestrictedJoins(rooms, name)
        self.membership = membership = Membership(
            rooms, users, author, people.profiles, self.permission, self.restricted, people.accounts
        )
        self.aliases = aliases = Aliases(collection(room_records.ALIASES), rooms, author)
        creation = Creation(rooms, author, membership, default_version=config.rooms.default_version)
        self.directory = directory = Directory(
            collection(room_records.PUBLISHED), rooms, anyone_publishes=config.rooms.allow_publishing
        )
        ground.consume(rooms, "directory", directory.wants, directory.handle)
        summaries = Summaries(rooms, aliases, self.restricted, foreign_rooms, name)
        self.hierarchy = Hierarchy(rooms, summaries, foreign_rooms, name)
        self.third_party = third_party = ThirdPartyInvites(
            rooms,
            author,
            membership,
            people.profiles,
            self.permission,
            ground.limits,
            people.identity,
            ground.egress,
        )
        new_rooms = NewRooms(
            creation, membership, third_party, aliases, directory, people.profiles, self.permission
        )
        redactions = Redactions(store.log, rooms.stored, collection(side_event_records.SIDE_EVENTS))
        pruned = ground.consume(rooms, "redactions", redactions.wants, redactions.handle)
        filing = SearchFiling(store.search, rooms, redactions, now)
        filed = ground.consume(rooms, "search", filing.wants, handle_batch=filing.handle, gathers=True)
        sending = Sending(rooms, author, aliases, membership, relations, pruned)
        delayed_events = collection(delayed_event_records.DELAYED_EVENTS)
        self.delayed = delayed = DelayedEvents(
            delayed_events,
            rooms,
            sending,
            people.accounts,
            ground.limits,
            ground.signing_key,
            now,
            max_delay_ms=config.limits.max_event_delay,
            max_scheduled=config.limits.max_delayed_events,
        )
        self.due_events = DueEvents(delayed_events, delayed, ground.own_room_shards, ground.to_others, now)
        scheduling = Scheduling(delayed, self.due_events)
        self.superseded = Superseded(store.log)
        ground.consume(rooms, "superseded", self.superseded.wants, self.superseded.handle)
        ground.consume(users, "superseded", self.superseded.wants, self.superseded.handle)
        self.account_data = AccountData(users, now, shown={PUSH_RULES: shown_push_rules})
        successors = Successors(rooms, users, self.account_data)
        ground.consume(rooms, "successors", successors.wants, successors.handle)

        async def profile_changed(user_id: str) -> None:
            # Rooms may have been joined by way of another replica just now.
            await ground.replica.refresh(ground.shards.room_shards())
            user = await users.get(user_id)
            await membership.refresh_profiles(user_id, user.rooms("join"))

        people.profiles.on_member_change += (profile_changed, people.presence.profile_changed)
        upgrade = Upgrade(rooms, author, creation, aliases, directory, people.profiles, successors, users)
        told_ephemeral = ToldEphemeral(name, rooms, users, ground.outbox)
        self.typing = Typing(
            ground.bus, ground.to_others.id, ground.ephemeral, told_ephemeral, ground.waking.room
        )
        rooms.follow(self.typing.on_room_entry)
        self.receipts = Receipts(rooms, told_ephemeral, self.account_data, now)
        guests = Guests(rooms, people.accounts, membership, foreign_rooms, name)
        ground.consume(rooms, "guests", guests.wants, guests.handle)
        self.routes: list[Routes] = [
            SendRoutes(sending, guests, scheduling),
            DelayedEventRoutes(delayed, scheduling),
            StateRoutes(state),
            HistoryRoutes(history, timestamp_to_event, max_page=config.limits.max_event_page),
            RoomRoutes(new_rooms, membership, third_party, aliases, upgrade, guests, users),
            AliasRoutes(aliases, access),
            DirectoryRoutes(
                directory, foreign_rooms, name, without_login=config.rooms.directory_without_login
            ),
            SpaceRoutes(summaries, self.hierarchy),
            RelationRoutes(relations),
            ReceiptRoutes(self.receipts),
            TypingRoutes(self.typing, rooms),
            AccountDataRoutes(self.account_data),
            TagRoutes(Tags(self.account_data)),
            PushRuleRoutes(PushRuleSettings(users, self.account_data)),
            ReportRoutes(Reports(collection(room_records.REPORTS), history, now)),
            SearchRoutes(Search(store.search, filed, rooms, users, visibility, state, history)),
        ]
