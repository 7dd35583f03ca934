"""One server, wired together: the only module that knows every part of it."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from client_api.account import AccountRoutes
from client_api.account_data import AccountDataRoutes
from client_api.admin.destinations import DestinationRoutes
from client_api.admin.registration import SecretRegistrationRoutes
from client_api.admin.registration_tokens import RegistrationTokenRoutes
from client_api.capabilities import CapabilityRoutes
from client_api.contacts import ContactRoutes
from client_api.dehydrated_devices import DehydratedDeviceRoutes
from client_api.devices import DeviceRoutes
from client_api.directory import AliasRoutes, DirectoryRoutes
from client_api.events import HistoryRoutes, SendRoutes, StateRoutes
from client_api.health import HealthRoutes
from client_api.http import Gate, client_server_api
from client_api.key_backup import KeyBackupRoutes
from client_api.keys import KeyRoutes
from client_api.login import LoginRoutes
from client_api.media import MediaRoutes
from client_api.mutual_rooms import MutualRoomRoutes
from client_api.notifications import NotificationRoutes
from client_api.openid import OpenIdRoutes
from client_api.pages import AssetRoutes
from client_api.presence import PresenceRoutes
from client_api.profiles import ProfileRoutes
from client_api.push_rules import PushRuleRoutes
from client_api.pushers import PusherRoutes
from client_api.receipts import ReceiptRoutes, TypingRoutes
from client_api.registration import RegistrationRoutes
from client_api.relations import RelationRoutes
from client_api.replicas import OtherReplicas, ReplicaRoutes, replica_token
from client_api.reporting import ReportRoutes
from client_api.room_previews import RoomPreviewRoutes
from client_api.rooms import RoomRoutes
from client_api.search import SearchRoutes
from client_api.server_administration import ServerAdministrationRoutes
from client_api.sliding_sync import SlidingSyncRoutes
from client_api.spaces import SpaceRoutes
from client_api.syncing import SyncRoutes
from client_api.third_party_networks import ThirdPartyNetworkRoutes
from client_api.to_device import ToDeviceRoutes
from client_api.uia import FallbackRoutes, InteractiveAuth
from client_api.user_directory import UserDirectoryRoutes
from client_api.versions import VersionRoutes
from client_api.voip import VoipRoutes
from client_api.well_known import WellKnownRoutes
from federation.door import Door
from federation.federation import Domain, Federation
from federation.foreign_rooms import RemoteForeignRooms
from federation.http import server_server_api
from federation.key_servers import RemoteKeyServers
from federation.media_servers import RemoteMediaServers
from federation.openid import OpenIdRoutes as FederationOpenIdRoutes
from federation.other_servers import OtherServers
from federation.outbound import Outbound
from federation.policy_servers import RemotePolicyServers
from federation.profile_servers import RemoteProfileServers
from homeserver.bus.bus import Bus
from homeserver.bus.consumer import Consumer, Handle, HandleBatch, Progress
from homeserver.bus.in_process import InProcessBus
from homeserver.bus.relay import everything, relay
from homeserver.bus.replica import Replica, ShardFamily
from homeserver.bus.to_others import ToOthers
from homeserver.clock import Clock, system_clock
from homeserver.config import Config
from homeserver.consumers.device_announcements import DeviceAnnouncements
from homeserver.consumers.redactions import Redactions
from homeserver.consumers.search import SearchFiling
from homeserver.consumers.successors import Successors
from homeserver.consumers.superseded import Superseded
from homeserver.consumers.user_directory import UserDirectory
from homeserver.e2ee.cross_signing import CrossSigning
from homeserver.e2ee.dehydrated import DehydratedDevices
from homeserver.e2ee.device_keys import DeviceKeys
from homeserver.e2ee.identities import Identities
from homeserver.e2ee.key_backup import KeyBackup
from homeserver.e2ee.key_servers import KeyServers, NoKeyServers
from homeserver.e2ee.one_time_keys import OneTimeKeys
from homeserver.e2ee.remote_lists import RemoteLists
from homeserver.e2ee.to_device import ToDevice
from homeserver.e2ee.told_keys import ToldKeys
from homeserver.key_file import load_or_create
from homeserver.media.files import MediaFiles
from homeserver.media.remote import RemoteMedia
from homeserver.media.repository import MediaRepository
from homeserver.media.servers import MediaServers, NoMediaServers
from homeserver.media.thumbnails import Thumbnails
from homeserver.metrics import GcPauses, Requests, ServerMetrics
from homeserver.outbox import NoOutbox, Outbox
from homeserver.push.notifications import Notifications
from homeserver.push.pushers import Pushers
from homeserver.push.rules import PUSH_RULES, UserPushRules, shown_push_rules
from homeserver.push.settings import PushRuleSettings
from homeserver.push.unread import Unread
from homeserver.push.unread_tallies import UnreadTallies
from homeserver.push.verdicts import Verdicts
from homeserver.rate_limits import RateLimits, SharedLimits
from homeserver.reports import Reports
from homeserver.rooms.aliases import Aliases
from homeserver.rooms.authoring import Author
from homeserver.rooms.bundling import Bundling
from homeserver.rooms.creation import Creation
from homeserver.rooms.directory import Directory
from homeserver.rooms.ephemeral import EphemeralClock, Typing
from homeserver.rooms.foreign_rooms import ForeignRooms, NoForeignRooms
from homeserver.rooms.guests import Guests
from homeserver.rooms.history import History
from homeserver.rooms.membership import Membership
from homeserver.rooms.new_room import NewRooms
from homeserver.rooms.policy import NoPolicyServers, Policy, PolicyServers
from homeserver.rooms.receipts import Receipts
from homeserver.rooms.relations import Relations
from homeserver.rooms.restricted import RestrictedJoins
from homeserver.rooms.rooms import Rooms
from homeserver.rooms.sending import Sending
from homeserver.rooms.spaces import Hierarchy
from homeserver.rooms.summary import Summaries
from homeserver.rooms.told_ephemeral import ToldEphemeral
from homeserver.rooms.upgrade import Upgrade
from homeserver.rooms.visibility import Visibility
from homeserver.search.searching import Search
from homeserver.sync.device_lists import DeviceLists
from homeserver.sync.engine import SyncEngine
from homeserver.sync.event_stream import EventStream
from homeserver.sync.served_members import ServedMembers
from homeserver.sync.sliding.connection import Connections
from homeserver.sync.sliding.engine import SlidingSync
from homeserver.sync.sliding.extensions import ExtensionSections
from homeserver.sync.sliding.rooms import RoomSections
from homeserver.sync.to_device import ToDeviceQueue
from homeserver.sync.wakeup import Wakeup
from homeserver.sync.waking import Waking
from homeserver.tasks import end
from homeserver.users.account_data import AccountData
from homeserver.users.accounts import Accounts
from homeserver.users.deactivation import Deactivation
from homeserver.users.devices import Devices
from homeserver.users.invite_permission import InvitePermission
from homeserver.users.last_seen import LastSeen
from homeserver.users.logins import Logins
from homeserver.users.moderation import Moderation
from homeserver.users.openid import OpenId
from homeserver.users.passwords import Passwords
from homeserver.users.presence import Presence
from homeserver.users.presence_reports import PresenceReports
from homeserver.users.presence_told import PresenceTold
from homeserver.users.profiles import Profiles
from homeserver.users.registration import Registration
from homeserver.users.registration_tokens import RegistrationTokens
from homeserver.users.remote_profiles import NoProfileServers, ProfileServers, RemoteProfiles
from homeserver.users.sessions import Sessions
from homeserver.users.shared_rooms import SharedRooms
from homeserver.users.told_presence import ToldPresence
from homeserver.users.uia import Stage, Uia
from homeserver.users.uia_stages import (
    DUMMY,
    PASSWORD,
    REGISTRATION_TOKEN,
    TERMS,
    DummyStage,
    PasswordStage,
    RegistrationTokenStage,
    TermsStage,
)
from homeserver.users.users import Users
from rest.client_address import ClientAddresses
from rest.routes import Api, Application, Routes, answering
from storage.errors import StoreError
from storage.log import Entry
from storage.records import accounts as account_records
from storage.records import cursors as cursor_records
from storage.records import keys as key_records
from storage.records import media as media_records
from storage.records import presence as presence_records
from storage.records import profiles as profile_records
from storage.records import push as push_records
from storage.records import remote_keys as remote_key_records
from storage.records import rooms as room_records
from storage.records import sliding_sync as sliding_sync_records
from storage.records import user_directory as user_directory_records
from storage.records.server_key import RetiredKey
from storage.store import Store

log = structlog.get_logger(__name__)


class App:
    """One server, wired together; `web` is what listens."""

    def __init__(
        self,
        config: Config,
        store: Store,
        bus: Bus | None = None,
        *,
        retired_keys: Sequence[RetiredKey] = (),
        now: Clock = system_clock,
    ) -> None:
        self.config = config
        self.store = store
        self.bus = bus = bus if bus is not None else InProcessBus(store.info.shards, now)
        self.replica = Replica(bus)
        signing_key = load_or_create(config.signing_key_path)
        self.others = OtherReplicas(self.replica, store.info.shards, replica_token(signing_key))
        collection = store.collection
        name = config.server_name
        shards = store.info.shards
        epoch = store.info.epoch
        other_servers: OtherServers | None = None
        if config.federation.enabled:
            remote_keys = collection(remote_key_records.REMOTE_KEYS)
            other_servers = OtherServers(config, signing_key, retired_keys, remote_keys, now)
        key_servers = RemoteKeyServers(other_servers.client) if other_servers is not None else NoKeyServers()

        self._tasks: list[asyncio.Task[None]] = []
        self.consumers: list[Consumer] = []
        self.user_consumers: list[Consumer] = []
        self.rooms = Rooms(store.log, shards, now, memory_budget=config.limits.room_cache)
        self.users = Users(
            store.log, shards, now, server_name=name, max_users=config.limits.user_cache // 4096
        )
        self.wakeup = Wakeup()
        self.served_members = ServedMembers(self.users, self.wakeup)
        self.users.on_loaded.append(self.served_members.loaded)
        waking = Waking(self.rooms, self.users, self.wakeup, self.served_members)
        to_others = ToOthers(bus)
        self.outbound: Outbound | None = None
        if other_servers is not None:
            run = f"{to_others.id}{now():x}"
            owns = self.replica.owns
            self.outbound = Outbound(name, run, store, self.rooms, self.users, other_servers, owns, now)
            self._follow_for_others(self.outbound)
        outbox: Outbox = self.outbound.sender if self.outbound is not None else NoOutbox()
        told_ephemeral = ToldEphemeral(name, self.rooms, self.users, outbox)
        clock = EphemeralClock()
        self.typing = Typing(bus, to_others.id, clock, told_ephemeral, waking.room)
        self.passwords = Passwords(
            memory_kib=config.auth.argon2_memory // 1024, time_cost=config.auth.argon2_time_cost
        )
        self.limits = RateLimits(config.rate_limits)
        self.shared_limits = SharedLimits(self.limits, to_others)
        self.requests = Requests()
        self.accounts = Accounts(
            collection(account_records.ACCOUNTS),
            self.passwords,
            server_name=name,
            password_min_length=config.auth.password_min_length,
        )
        self.last_seen = LastSeen(collection(account_records.DEVICES_SEEN))
        self.sessions = Sessions(
            self.accounts,
            collection(account_records.DEVICES),
            collection(account_records.ACCESS_TOKENS),
            collection(account_records.REFRESH_TOKENS),
            self.last_seen,
            self.users.append,
            now=now,
            access_lifetime_ms=config.auth.access_token_lifetime,
            refresh_lifetime_ms=config.auth.refresh_token_lifetime,
        )
        self.users.follow(self.sessions.on_user_entry)
        self.profiles = Profiles(collection(profile_records.PROFILES))
        profile_servers: ProfileServers = NoProfileServers()
        if other_servers is not None:
            profile_servers = RemoteProfileServers(other_servers.client)
        self.remote_profiles = RemoteProfiles(profile_servers, now)
        policy_servers: PolicyServers = NoPolicyServers()
        if other_servers is not None:
            policy_servers = RemotePolicyServers(other_servers.client)
        author = Author(name, signing_key, now, Policy(policy_servers, now))
        visibility = Visibility(store.log, self.users, self.accounts)
        bundling = Bundling(store.log, self.rooms.stored, visibility, now)
        history = History(self.rooms, self.users, visibility, bundling, epoch=epoch, now=now)
        relations = Relations(self.rooms, history, visibility)
        permission = InvitePermission(self.users)
        restricted = RestrictedJoins(self.rooms, name)
        membership = Membership(self.rooms, self.users, author, self.profiles, permission, restricted)
        aliases = Aliases(collection(room_records.ALIASES), self.rooms, author)
        creation = Creation(self.rooms, author, default_version=config.rooms.default_version)
        directory = Directory(
            collection(room_records.PUBLISHED),
            self.rooms,
            anyone_publishes=config.rooms.allow_publishing,
        )
        self._consume(self.rooms, "directory", directory.wants, directory.handle)
        foreign_rooms: ForeignRooms = NoForeignRooms()
        if other_servers is not None:
            foreign_rooms = RemoteForeignRooms(name, other_servers.client, now)
        summaries = Summaries(self.rooms, aliases, restricted, foreign_rooms, name)
        hierarchy = Hierarchy(self.rooms, summaries, foreign_rooms, name)
        new_rooms = NewRooms(
            creation,
            membership,
            aliases,
            directory,
            self.profiles,
            permission,
        )
        redactions = Redactions(store.log, self.rooms.stored)
        pruned = self._consume(self.rooms, "redactions", redactions.wants, redactions.handle)
        filing = SearchFiling(store.search, self.rooms, redactions, now)
        filed = self._consume(self.rooms, "search", filing.wants, handle_batch=filing.handle)
        sending = Sending(self.rooms, author, aliases, membership, relations, pruned)
        self.superseded = Superseded(store.log)
        self._consume(self.rooms, "superseded", self.superseded.wants, self.superseded.handle)
        self._consume(self.users, "superseded", self.superseded.wants, self.superseded.handle)
        account_data = AccountData(self.users, now, shown={PUSH_RULES: shown_push_rules})
        successors = Successors(self.rooms, self.users, account_data)
        self._consume(self.rooms, "successors", successors.wants, successors.handle)

        async def profile_changed(user_id: str) -> None:
            user = await self.users.get(user_id)
            await membership.refresh_profiles(user_id, user.rooms("join"))

        self.profiles.on_member_change.append(profile_changed)
        upgrade = Upgrade(self.rooms, author, creation, aliases, directory, self.profiles, successors)
        receipts = Receipts(self.rooms, told_ephemeral, account_data, now)
        shared_rooms = SharedRooms(self.rooms, self.users)
        user_directory = UserDirectory(
            collection(user_directory_records.WORDS),
            collection(user_directory_records.ROOMS),
            self.rooms,
            self.users,
            shared_rooms,
            self.profiles,
        )
        self._consume(self.rooms, "user_directory", user_directory.wants, user_directory.handle)
        self.presence_told = PresenceTold(self.rooms, self.users, self.wakeup, bus, clock)
        self.presence_reports = PresenceReports(to_others, now)
        self.presence = Presence(
            collection(presence_records.PRESENCE),
            self.presence_told,
            ToldPresence(name, self.rooms, outbox, now),
            self.presence_reports,
            self.users,
            shared_rooms,
            self.profiles,
            self.wakeup,
            to_others,
            lambda user_id: self.replica.owns(shards.of_user(user_id)),
            now,
            enabled=config.presence.enabled,
        )
        self.profiles.on_member_change.append(self.presence.profile_changed)
        push_rules = UserPushRules()
        verdicts = Verdicts()
        self.unread_tallies = UnreadTallies(collection(push_records.UNREAD_TALLIES))
        unread = Unread(self.rooms, self.unread_tallies, push_rules, verdicts)
        notifications = Notifications(self.rooms, self.users, push_rules, verdicts, epoch=epoch, now=now)
        pushers = Pushers(collection(push_records.PUSHERS), now)
        device_lists = DeviceLists(self.rooms, self.users, shared_rooms, now)
        self.one_time_keys = OneTimeKeys(
            collection(key_records.ONE_TIME_KEYS),
            collection(key_records.ONE_TIME_UPLOADS),
            collection(key_records.FALLBACK_KEYS),
            collection(key_records.ONE_TIME_EPOCH),
            to_others,
            now,
        )
        to_device = ToDeviceQueue(store.log, to_others, now)
        self.engine = SyncEngine(
            rooms=self.rooms,
            users=self.users,
            wakeup=self.wakeup,
            visibility=visibility,
            typing=self.typing,
            ephemeral=clock,
            to_device=to_device,
            device_lists=device_lists,
            key_counts=self.one_time_keys,
            unread=unread,
            presence=self.presence,
            account_data=account_data,
            bundling=bundling,
            replica=self.replica,
            epoch=epoch,
            now=now,
            max_timeline=config.limits.max_sync_timeline,
        )
        sliding_connections = Connections(
            collection(sliding_sync_records.SLIDING_CONNECTIONS),
            epoch=epoch,
            room_shards=shards.rooms,
            now=now,
        )
        sliding = SlidingSync(
            rooms=self.rooms,
            users=self.users,
            wakeup=self.wakeup,
            sync=self.engine,
            sections=RoomSections(self.rooms, visibility, bundling, unread, now),
            extensions=ExtensionSections(
                to_device=to_device,
                device_lists=device_lists,
                key_counts=self.one_time_keys,
                account_data=account_data,
                typing=self.typing,
            ),
            connections=sliding_connections,
        )
        media_servers: MediaServers = NoMediaServers()
        if other_servers is not None:
            media_servers = RemoteMediaServers(other_servers.client, other_servers.egress)
        media_folder = Path(config.media.path)
        self.remote_media = RemoteMedia(
            collection(media_records.MEDIA_COPIES),
            MediaFiles(media_folder / "remote"),
            media_servers,
            self.limits,
            to_others,
            now,
            max_size=config.limits.max_upload_size,
            max_total=config.media.remote_cache,
        )
        media = MediaRepository(
            collection(media_records.MEDIA),
            MediaFiles(media_folder),
            self.remote_media,
            to_others,
            server_name=name,
            now=now,
            max_upload_size=config.limits.max_upload_size,
            unused_expires_after=config.media.unused_expires_after,
            max_pending=config.media.max_pending_uploads,
        )
        self.thumbnails = Thumbnails(
            sizes=config.media.thumbnail_sizes,
            dynamic=config.media.dynamic_thumbnails,
            max_pixels=config.media.max_pixels,
        )
        self.rooms.follow(self.users.on_room_entry)
        self.rooms.follow(self.presence.on_room_entry)
        stream = EventStream(
            self.rooms,
            self.users,
            history,
            visibility,
            directory,
            account_data,
            self.presence,
            self.engine,
            self.wakeup,
            epoch=epoch,
            now=now,
        )
        self.rooms.follow(stream.on_room_entry)
        self.rooms.follow(waking.on_room_entry)
        self.users.follow(waking.on_user_entry)
        guests = Guests(self.rooms, self.accounts, membership)
        self._consume(self.rooms, "guests", guests.wants, guests.handle)
        if bus.shared:
            self._consume(self.rooms, "bus", everything, handle_batch=relay(bus))
            self._consume(self.users, "bus", everything, handle_batch=relay(bus))
        self.devices = Devices(collection(account_records.DEVICES), self.last_seen, self.sessions)
        self.deactivation = Deactivation(
            self.accounts,
            self.sessions,
            self.users,
            membership,
            account_data,
            self.profiles,
            store.log,
            now,
        )
        self.deactivation.on_deactivated += (
            self.presence.forget,
            pushers.forget_user,
            self.unread_tallies.forget_user,
        )
        self.sessions.on_device_gone += (pushers.forget_device, sliding_connections.forget_device)
        self._consume(self.users, "deactivation", self.deactivation.wants, self.deactivation.handle)
        self.registration_tokens = RegistrationTokens(collection(account_records.REGISTRATION_TOKENS), now)
        registration = Registration(
            config.registration,
            self.accounts,
            self.sessions,
            self.profiles,
            self.registration_tokens,
            collection(account_records.REGISTRATION_NONCES),
            now,
        )
        logins = Logins(self.accounts, collection(account_records.LOGIN_TOKENS), self.limits, now)
        terms = TermsStage(config.registration.terms)
        stages: dict[str, Stage] = {
            DUMMY: DummyStage(),
            PASSWORD: PasswordStage(logins),
            REGISTRATION_TOKEN: RegistrationTokenStage(self.registration_tokens),
            TERMS: terms,
        }
        uia = Uia(collection(account_records.UIA_SESSIONS), stages, now)
        interactive = InteractiveAuth(uia, password_login=config.auth.password_login)
        self.openid = OpenId(collection(account_records.OPENID_TOKENS), now)
        self.modules: list[Routes] = [
            SendRoutes(sending, guests),
            *self._encryption(key_servers, outbox, shared_rooms, device_lists, interactive, now),
            SyncRoutes(self.engine, collection(profile_records.FILTERS), self.presence),
            SlidingSyncRoutes(sliding, self.presence),
            MediaRoutes(media, self.thumbnails),
            StateRoutes(history),
            HistoryRoutes(history, max_page=config.limits.max_event_page),
            RoomRoutes(new_rooms, membership, aliases, upgrade, guests, self.users),
            AliasRoutes(aliases, history),
            DirectoryRoutes(
                directory, foreign_rooms, name, without_login=config.rooms.directory_without_login
            ),
            SpaceRoutes(summaries, hierarchy),
            RelationRoutes(relations),
            ReceiptRoutes(receipts),
            TypingRoutes(self.typing, self.rooms),
            AccountDataRoutes(account_data),
            PushRuleRoutes(PushRuleSettings(self.users, account_data)),
            PusherRoutes(pushers),
            NotificationRoutes(notifications),
            PresenceRoutes(self.presence),
            RoomPreviewRoutes(stream),
            ReportRoutes(Reports(collection(room_records.REPORTS), history, now)),
            MutualRoomRoutes(shared_rooms),
            UserDirectoryRoutes(user_directory),
            SearchRoutes(Search(store.search, filed, self.rooms, self.users, visibility, history)),
            ThirdPartyNetworkRoutes(),
            VoipRoutes(config.turn, now),
            ProfileRoutes(self.profiles, self.remote_profiles, self.accounts),
            RegistrationRoutes(registration, self.accounts, self.sessions, interactive),
            SecretRegistrationRoutes(registration, self.sessions, name),
            RegistrationTokenRoutes(self.registration_tokens),
            LoginRoutes(
                logins,
                self.sessions,
                interactive,
                server_name=name,
                password_login=config.auth.password_login,
                login_tokens=config.auth.login_tokens,
            ),
            AccountRoutes(self.accounts, self.sessions, self.deactivation, interactive),
            DeviceRoutes(self.devices, interactive),
            ContactRoutes(),
            OpenIdRoutes(self.openid, name),
            ServerAdministrationRoutes(Moderation(self.accounts), self.devices),
            CapabilityRoutes(
                default_room_version=config.rooms.default_version,
                password_login=config.auth.password_login,
                login_tokens=config.auth.login_tokens,
            ),
            FallbackRoutes(uia, terms, name),
            AssetRoutes(),
            WellKnownRoutes(config.well_known, config.public_url),
            VersionRoutes(),
            HealthRoutes(
                self.others,
                self.replica,
                (self.consumers, self.user_consumers),
                store,
                config.signing_key_path,
                now,
            ),
            ReplicaRoutes(self.others, self.replica, self.consumers, self.user_consumers),
        ]
        self.federation_modules: list[Routes] = [FederationOpenIdRoutes(self.openid)]
        self.federation: Federation | None = None
        if other_servers is not None:
            told_keys = ToldKeys(self.identities, self.one_time_keys, self.users, self.replica, shards)
            domain = Domain(
                self.rooms,
                author,
                restricted,
                permission,
                self.limits,
                visibility,
                hierarchy,
                directory,
                aliases,
                self.accounts,
                self.profiles,
                told_keys,
                self.typing,
                receipts,
                self.presence,
                self.to_device,
                self.remote_lists,
                media,
                self.thumbnails,
                self.replica,
            )
            assert self.outbound is not None
            self.modules.append(DestinationRoutes(self.outbound.destinations))
            self.federation = Federation(config, other_servers, store, domain, now)
            self.federation_modules += self.federation.routes
            membership.elsewhere = aliases.elsewhere = self.federation.remote_rooms
            history.earlier = self.federation.backfill

    def _encryption(
        self,
        key_servers: KeyServers,
        outbox: Outbox,
        shared_rooms: SharedRooms,
        device_lists: DeviceLists,
        interactive: InteractiveAuth,
        now: Clock,
    ) -> tuple[Routes, ...]:
        """What keeps keys, backups and messages of devices, and the routes to it."""
        collection, log_port, shards = self.store.collection, self.store.log, self.store.info.shards
        known_devices, queue = collection(account_records.DEVICES), self.engine.to_device
        self.identities = identities = Identities(
            self.users, log_port, shards, now, budget=self.config.limits.user_cache // 2
        )
        announcements = DeviceAnnouncements(device_lists)
        announced = self._consume(
            self.users, "device_announcements", announcements.wants, handle_batch=announcements.handle
        )
        identities.on_published = lambda user_id: announced.settled(shards.of_user(user_id))
        self.remote_lists = RemoteLists(
            key_servers, identities, shared_rooms, self.rooms, self.users, self.replica, shards
        )
        self._consume(self.rooms, "remote_lists", self.remote_lists.wants, self.remote_lists.handle)
        device_keys = DeviceKeys(
            identities,
            self.one_time_keys,
            self.remote_lists,
            key_servers,
            known_devices,
            queue,
            self.users,
            self.replica,
            shards,
        )
        cross_signing = CrossSigning(identities, known_devices)
        backup = KeyBackup(
            collection(key_records.BACKUP_VERSIONS),
            collection(key_records.BACKUPS),
            collection(key_records.BACKUP_KEYS),
            now,
        )
        dehydrated = DehydratedDevices(
            collection(key_records.DEHYDRATED_DEVICES),
            known_devices,
            device_keys,
            queue,
            self.users,
            now,
            check_device_id=cross_signing.check_device_id,
            end_device=self.sessions.end_device,
        )
        self.sessions.check_device_id.append(cross_signing.check_device_id)
        self.sessions.on_device_added.append(device_keys.added)
        self.sessions.on_device_gone += (device_keys.forget, dehydrated.forget)
        self.devices.on_rename.append(device_keys.renamed)

        async def deactivated(user_id: str, erase: bool) -> None:
            await cross_signing.forget(user_id)
            await backup.delete_all(user_id)

        self.deactivation.on_deactivated.append(deactivated)
        self.to_device = ToDevice(self.users, log_port, shards, known_devices, queue, outbox, now)
        return (
            ToDeviceRoutes(self.to_device),
            KeyRoutes(device_keys, cross_signing, device_lists, self.engine, self.users, interactive),
            KeyBackupRoutes(backup),
            DehydratedDeviceRoutes(dehydrated),
        )

    def _follow_for_others(self, outbound: Outbound) -> None:
        """The consumers that tell other servers what happens here."""
        sender, kept = outbound.sender, outbound.server_rooms
        self._consume(self.rooms, "server_rooms", kept.wants, kept.handle)
        self._consume(self.rooms, "sender", sender.wants, handle_batch=sender.handle, progress=sender)
        self._consume(
            self.users, "sender", sender.wants_of_users, handle_batch=sender.handle_of_users, progress=sender
        )

    def _consume(
        self,
        shards: Rooms | Users,
        name: str,
        wants: Callable[[Entry], bool],
        handle: Handle | None = None,
        *,
        handle_batch: HandleBatch | None = None,
        progress: Progress | None = None,
    ) -> Consumer:
        """A consumer of the room or the user shards, fed from now on and started with the server."""
        consumer = Consumer(
            name,
            self.store.log,
            self.store.collection(cursor_records.CURSORS),
            wants=wants,
            handle=handle,
            handle_batch=handle_batch,
            ask_owner=self.others.handled,
            progress=progress,
        )
        shards.feed(consumer.on_entries)
        (self.consumers if shards is self.rooms else self.user_consumers).append(consumer)
        return consumer

    async def start(self) -> None:
        await self.rooms.start(self.replica.on_appended)
        await self.users.start(self.replica.on_appended)
        await self.one_time_keys.start(self.store.info.epoch)
        for work, name in (
            (self.last_seen.keep_writing(), "last-seen"),
            (self.unread_tallies.keep_writing(), "unread-tallies"),
            (self.superseded.keep_removing(), "superseded"),
            (self.presence.keep_looking(), "presence-look"),
            (self.presence.keep_telling(), "presence-tell"),
            (self.presence_told.keep_waking(), "presence-wake"),
            (self.presence_reports.keep_reporting(), "presence-report"),
            (self.shared_limits.keep_telling(), "rate-limits"),
        ):
            self._tasks.append(asyncio.create_task(work, name=name))
        if self.outbound is not None:
            await self.outbound.start()
        await self.replica.start(
            ShardFamily(self.rooms.writers, self.consumers),
            ShardFamily(self.users.writers, self.user_consumers),
        )
        await self.presence.start()
        if self.federation is not None:
            self.federation.start()

    def web_application(self) -> Application:
        addresses = ClientAddresses(self.config.trusted_proxies, self.others.is_replica)
        others = self.others if self.bus.shared else None
        gate = Gate(self.sessions, self.limits, addresses, others)
        apis = [client_server_api(self.modules, gate)]
        if not self.config.federation.listen:
            apis.append(self._server_server_api())
        return Application(answering(apis, self.requests), self.config.limits.max_body_size)

    def federation_application(self) -> Application:
        """What listens where only other servers are served."""
        return Application(answering([self._server_server_api()], self.requests))

    def _server_server_api(self) -> Api:
        door = None
        if self.federation is not None:
            addresses = ClientAddresses(self.config.trusted_proxies)
            door = Door(self.federation.others.authenticator, self.limits, addresses)
        return server_server_api(self.federation_modules, door)

    def metrics(self, pauses: GcPauses) -> ServerMetrics:
        return ServerMetrics(
            requests=self.requests,
            rooms=self.rooms,
            users=self.users,
            wakeup=self.wakeup,
            limits=self.limits,
            replica=self.replica,
            consumers=(*self.consumers, *self.user_consumers),
            destinations=self.outbound.destinations if self.outbound is not None else None,
            edus_dropped=self.federation.edus.dropped if self.federation is not None else {},
            staged=self.federation.incoming.waiting if self.federation is not None else lambda: (0, 0.0),
            pauses=pauses,
        )

    async def close(self) -> None:
        """Finish what is in flight, then close the store."""
        self.wakeup.close()
        await end(self._tasks)
        try:
            await self.last_seen.write()
            await self.unread_tallies.write()
            await self.presence.write(everything=True)
        except StoreError as error:
            log.warning("what was gathered lately is not written", error=str(error))
        for writer in (*self.rooms.writers.values(), *self.users.writers.values()):
            await writer.drain()
        await self.replica.close()
        if self.outbound is not None:
            await self.outbound.close()
        await self.others.close()
        await self.remote_lists.close()
        await self.remote_profiles.close()
        await self.remote_media.close()
        if self.federation is not None:
            await self.federation.close()
        await self.engine.to_device.settle()
        self.passwords.close()
        self.thumbnails.close()
        await self.store.close()
