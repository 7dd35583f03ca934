"""What clients are told of as it happens, and of what they are notified."""

from client_api.notifications import NotificationRoutes
from client_api.pushers import PusherRoutes
from client_api.room_previews import RoomPreviewRoutes
from client_api.sliding_sync import SlidingSyncRoutes
from client_api.syncing import SyncRoutes
from homeserver.app.conversations import Conversations
from homeserver.app.ground import Ground
from homeserver.app.people import People
from homeserver.e2ee.one_time_keys import OneTimeKeys
from homeserver.push.notifications import Notifications
from homeserver.push.pushers import Pushers
from homeserver.push.rules import UserPushRules
from homeserver.push.unread import Unread
from homeserver.push.unread_tallies import UnreadTallies
from homeserver.push.verdicts import Verdicts
from homeserver.sync.device_lists import DeviceLists
from homeserver.sync.engine import SyncEngine
from homeserver.sync.event_stream import EventStream
from homeserver.sync.federation_format import FederationFormat
from homeserver.sync.sliding.connection import Connections
from homeserver.sync.sliding.engine import SlidingSync
from homeserver.sync.sliding.extensions import ExtensionSections
from homeserver.sync.sliding.rooms import RoomSections
from homeserver.sync.stored_filters import StoredFilters
from homeserver.sync.to_device import ToDeviceQueue
from rest.routes import Routes
from storage.records import accounts as account_records
from storage.records import keys as key_records
from storage.records import profiles as profile_records
from storage.records import push as push_records
from storage.records import side_events as side_event_records
from storage.records import sliding_sync as sliding_sync_records


class Syncing:
    """/sync, sliding sync, the old event stream, unread counts, and what they count of devices."""

    def __init__(self, ground: Ground, people: People, conversations: Conversations) -> None:
        config, collection, now = ground.config, ground.collection, ground.now
        rooms, users, epoch = ground.rooms, ground.users, ground.epoch
        visibility, bundling = conversations.visibility, conversations.bundling
        push_rules = UserPushRules()
        verdicts = Verdicts()
        self.unread_tallies = UnreadTallies(collection(push_records.UNREAD_TALLIES))
        unread = Unread(rooms, self.unread_tallies, visibility, push_rules, verdicts)
        notifications = Notifications(rooms, users, visibility, push_rules, verdicts, epoch=epoch, now=now)
        self.pushers = Pushers(collection(push_records.PUSHERS), now)
        self.device_lists = DeviceLists(rooms, users, people.shared_rooms, now)
        self.one_time_keys = OneTimeKeys(
            collection(key_records.ONE_TIME_KEYS),
            collection(key_records.ONE_TIME_UPLOADS),
            collection(key_records.FALLBACK_KEYS),
            collection(key_records.ONE_TIME_EPOCH),
            ground.to_others,
            now,
        )
        received = collection(account_records.DEVICES_RECEIVED)
        self.to_device = ToDeviceQueue(ground.store.log, received, ground.to_others, epoch, now)
        self.engine = SyncEngine(
            rooms=rooms,
            users=users,
            long_polls=ground.long_polls,
            visibility=visibility,
            typing=conversations.typing,
            ephemeral=ground.ephemeral,
            to_device=self.to_device,
            device_lists=self.device_lists,
            key_counts=self.one_time_keys,
            unread=unread,
            presence=people.presence,
            account_data=conversations.account_data,
            bundling=bundling,
            replica=ground.replica,
            epoch=epoch,
            now=now,
            max_timeline=config.limits.max_sync_timeline,
        )
        connections = Connections(
            collection(sliding_sync_records.SLIDING_CONNECTIONS),
            epoch=epoch,
            room_shards=ground.shards.rooms,
            now=now,
        )
        sliding = SlidingSync(
            rooms=rooms,
            visibility=visibility,
            users=users,
            long_polls=ground.long_polls,
            sync=self.engine,
            sections=RoomSections(rooms, visibility, bundling, unread, now),
            extensions=ExtensionSections(
                to_device=self.to_device,
                device_lists=self.device_lists,
                key_counts=self.one_time_keys,
                account_data=conversations.account_data,
                typing=conversations.typing,
                epoch=epoch,
            ),
            connections=connections,
        )
        people.sessions.on_device_gone += (self.pushers.forget_device, connections.forget_device)
        stream = EventStream(
            rooms,
            users,
            conversations.access,
            conversations.state,
            conversations.history,
            visibility,
            conversations.directory,
            conversations.account_data,
            people.presence,
            self.engine,
            ground.long_polls,
            epoch=epoch,
            now=now,
        )
        # Who waits is woken when all that a sync reads has been brought up to date.
        rooms.follow(users.on_room_entry)
        rooms.follow(people.presence.on_room_entry)
        rooms.follow(stream.on_room_entry)
        rooms.follow(ground.waking.on_room_entry)
        users.follow(ground.waking.on_user_entry)
        self.routes: list[Routes] = [
            SyncRoutes(
                self.engine,
                FederationFormat(rooms, collection(side_event_records.SIDE_EVENTS)),
                StoredFilters(collection(profile_records.FILTERS)),
                people.presence,
            ),
            SlidingSyncRoutes(sliding, people.presence),
            RoomPreviewRoutes(stream),
            NotificationRoutes(notifications),
            PusherRoutes(self.pushers, people.sessions),
        ]
