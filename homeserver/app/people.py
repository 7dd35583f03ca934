"""Who there is: accounts, their sessions and profiles, and who is there now."""

from client_api.mutual_rooms import MutualRoomRoutes
from client_api.presence import PresenceRoutes
from client_api.profiles import ProfileRoutes
from client_api.server_administration import ServerAdministrationRoutes
from client_api.user_directory import UserDirectoryRoutes
from federation.profile_servers import RemoteProfileServers
from federation.request_auth import authorization_at_identity_server
from homeserver.app.ground import Ground
from homeserver.consumers.user_directory import UserDirectory
from homeserver.identity.servers import IdentityServers
from homeserver.presence.presence import Presence
from homeserver.presence.reports import PresenceReports
from homeserver.presence.stream import PresenceStream
from homeserver.presence.told_presence import ToldPresence
from homeserver.users.accounts import Accounts
from homeserver.users.devices import Devices
from homeserver.users.last_seen import LastSeen
from homeserver.users.moderation import Moderation
from homeserver.users.passwords import Passwords
from homeserver.users.profiles import Profiles
from homeserver.users.remote_profiles import NoProfileServers, ProfileServers, RemoteProfiles
from homeserver.users.sessions import Sessions
from rest.routes import Routes
from storage.records import accounts as account_records
from storage.records import presence as presence_records
from storage.records import profiles as profile_records
from storage.records import user_directory as user_directory_records


class People:
    """Accounts, sessions, profiles, presence."""

    def __init__(self, ground: Ground) -> None:
        config, collection, now = ground.config, ground.collection, ground.now
        self.passwords = Passwords(
            memory_kib=config.auth.argon2_memory // 1024, time_cost=config.auth.argon2_time_cost
        )
        self.accounts = Accounts(
            collection(account_records.ACCOUNTS),
            self.passwords,
            server_name=ground.name,
            password_min_length=config.auth.password_min_length,
        )
        self.last_seen = LastSeen(collection(account_records.DEVICES_SEEN))
        self.sessions = Sessions(
            self.accounts,
            collection(account_records.DEVICES),
            collection(account_records.ACCESS_TOKENS),
            collection(account_records.REFRESH_TOKENS),
            self.last_seen,
            ground.users.append,
            shared=ground.replica.shared,
            now=now,
            access_lifetime_ms=config.auth.access_token_lifetime,
            refresh_lifetime_ms=config.auth.refresh_token_lifetime,
        )
        ground.users.follow(self.accounts.on_user_entry)
        ground.users.follow(self.sessions.on_user_entry)
        ground.consume(ground.users, "devices_going", self.sessions.wants, self.sessions.handle)
        self.devices = Devices(collection(account_records.DEVICES), self.last_seen, self.sessions)
        self.profiles = Profiles(collection(profile_records.PROFILES))
        servers: ProfileServers = NoProfileServers()
        if ground.other_servers is not None:
            servers = RemoteProfileServers(ground.other_servers.client)
        self.remote_profiles = RemoteProfiles(servers, now)
        self.identity = IdentityServers(
            config.identity.trusted_servers,
            ground.egress,
            lambda method, target, destination, content: authorization_at_identity_server(
                method, target, ground.name, destination, ground.signing_key, content
            ),
        )
        self.shared_rooms = ground.shared_rooms
        self.user_directory = UserDirectory(
            collection(user_directory_records.WORDS),
            collection(user_directory_records.ROOMS),
            ground.rooms,
            ground.users,
            self.shared_rooms,
            self.profiles,
            ground.replica,
            ground.name,
        )
        directory = self.user_directory
        ground.consume(
            ground.rooms, "user_directory", directory.wants, handle_batch=directory.handle, gathers=True
        )
        self.presence_stream = PresenceStream(
            ground.rooms, ground.users, ground.long_polls, ground.bus, ground.ephemeral
        )
        self.presence_reports = PresenceReports(ground.to_others, now)
        self.presence = Presence(
            collection(presence_records.PRESENCE),
            self.presence_stream,
            ToldPresence(ground.name, ground.rooms, ground.outbox, now),
            self.presence_reports,
            ground.users,
            self.shared_rooms,
            self.profiles,
            ground.long_polls,
            ground.to_others,
            lambda user_id: ground.replica.owns(ground.shards.of_user(user_id)),
            now,
            enabled=config.presence.enabled,
        )
        self.routes: list[Routes] = [
            PresenceRoutes(self.presence),
            ProfileRoutes(self.profiles, self.remote_profiles, self.accounts),
            MutualRoomRoutes(self.shared_rooms),
            UserDirectoryRoutes(self.user_directory),
            ServerAdministrationRoutes(Moderation(self.accounts), self.devices),
        ]
