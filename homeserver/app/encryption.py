"""What keeps keys, backups and messages of devices."""

from client_api.dehydrated_devices import DehydratedDeviceRoutes
from client_api.key_backup import KeyBackupRoutes
from client_api.keys import KeyRoutes
from client_api.to_device import ToDeviceRoutes
from federation.user_key_servers import RemoteKeyServers
from homeserver.app.ground import Ground
from homeserver.app.people import People
from homeserver.app.signing_in import SigningIn
from homeserver.app.syncing import Syncing
from homeserver.consumers.device_announcements import DeviceAnnouncements
from homeserver.e2ee.cross_signing import CrossSigning
from homeserver.e2ee.dehydrated import DehydratedDevices
from homeserver.e2ee.device_keys import DeviceKeys
from homeserver.e2ee.identities import Identities
from homeserver.e2ee.key_backup import KeyBackup
from homeserver.e2ee.key_servers import NoKeyServers
from homeserver.e2ee.remote_lists import RemoteLists
from homeserver.e2ee.to_device import ToDevice
from homeserver.e2ee.told_keys import ToldKeys
from rest.routes import Routes
from storage.records import accounts as account_records
from storage.records import keys as key_records


class Encryption:
    """Identity and one-time keys, cross-signing, backups, dehydrated devices, to-device messages."""

    def __init__(self, ground: Ground, people: People, syncing: Syncing, signing_in: SigningIn) -> None:
        collection, shards, users, now = ground.collection, ground.shards, ground.users, ground.now
        log, rooms = ground.store.log, ground.rooms
        sessions, queue, device_lists = people.sessions, syncing.to_device, syncing.device_lists
        known_devices = collection(account_records.DEVICES)
        others = ground.other_servers
        key_servers = RemoteKeyServers(others.client) if others is not None else NoKeyServers()
        self.identities = identities = Identities(
            users, log, shards, ground.replica, now, budget=ground.config.limits.user_cache // 2
        )
        announcements = DeviceAnnouncements(device_lists)
        announced = ground.consume(
            users, "device_announcements", announcements.wants, handle_batch=announcements.handle
        )
        identities.on_published = lambda user_id: announced.settled(shards.of_user(user_id))
        self.remote_lists = RemoteLists(
            key_servers, identities, people.shared_rooms, rooms, users, ground.replica, shards
        )
        ground.consume(rooms, "remote_lists", self.remote_lists.wants, self.remote_lists.handle)
        device_keys = DeviceKeys(
            identities,
            syncing.one_time_keys,
            self.remote_lists,
            key_servers,
            known_devices,
            queue,
            users,
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
            users,
            now,
            check_device_id=cross_signing.check_device_id,
            end_device=sessions.end_device,
        )
        sessions.check_device_id.append(cross_signing.check_device_id)
        sessions.on_device_added.append(device_keys.added)
        sessions.on_device_gone += (device_keys.forget, dehydrated.forget)
        people.devices.on_rename.append(device_keys.renamed)

        async def deactivated(user_id: str, erase: bool) -> None:
            await cross_signing.forget(user_id)
            await backup.delete_all(user_id)

        signing_in.deactivation.on_deactivated.append(deactivated)
        self.to_device = ToDevice(users, log, shards, known_devices, identities, queue, ground.outbox, now)
        self.told_keys = ToldKeys(identities, syncing.one_time_keys, users)
        interactive = signing_in.interactive
        self.routes: list[Routes] = [
            ToDeviceRoutes(self.to_device),
            KeyRoutes(device_keys, cross_signing, device_lists, syncing.engine, users, sessions, interactive),
            KeyBackupRoutes(backup),
            DehydratedDeviceRoutes(dehydrated),
        ]
