"""One server, put together of its parts."""

import asyncio
from collections.abc import Sequence

import structlog

from client_api.admin.destinations import DestinationRoutes
from client_api.capabilities import CapabilityRoutes
from client_api.health import HealthRoutes
from client_api.http import Gate, client_server_api
from client_api.pages import AssetRoutes
from client_api.replicas import ReplicaRoutes
from client_api.third_party_networks import ThirdPartyNetworkRoutes
from client_api.versions import VersionRoutes
from client_api.voip import VoipRoutes
from client_api.well_known import WellKnownRoutes
from federation.federation import Domain, Federation
from federation.http import server_server_api
from federation.limited_authenticator import LimitedAuthenticator
from federation.openid import OpenIdRoutes as FederationOpenIdRoutes
from federation.other_servers import OtherServers
from homeserver.app.conversations import Conversations
from homeserver.app.encryption import Encryption
from homeserver.app.ground import Ground
from homeserver.app.media import Media
from homeserver.app.people import People
from homeserver.app.signing_in import SigningIn
from homeserver.app.syncing import Syncing
from homeserver.bus import relay
from homeserver.bus.bus import Bus
from homeserver.bus.replica import ShardFamily
from homeserver.clock import Clock, system_clock
from homeserver.config import Config
from homeserver.metrics import GcPauses, Requests, ServerMetrics
from homeserver.tasks import end
from rest.client_address import ClientAddresses
from rest.routes import Api, Application, Routes, answering
from storage.errors import StoreError
from storage.records.server_key import RetiredKey
from storage.store import Store

log = structlog.get_logger(__name__)


class App:
    """All parts of a server; `start` and `close` run it."""

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
        self.ground = ground = Ground(config, store, bus, retired_keys, now)
        self.rooms, self.users = ground.rooms, ground.users
        self.people = people = People(ground)
        self.conversations = conversations = Conversations(ground, people)
        self.syncing = syncing = Syncing(ground, people, conversations)
        self.media = media = Media(ground)
        self.signing_in = signing_in = SigningIn(ground, people, conversations, syncing)
        self.encryption = encryption = Encryption(ground, people, syncing, signing_in)
        if ground.bus.shared:
            for shards in (ground.rooms, ground.users):
                ground.consume(shards, "bus", relay.wants, handle_batch=relay.publishing(ground.bus))
        self.requests = Requests()
        self._tasks: list[asyncio.Task[None]] = []
        parts = (conversations, encryption, syncing, media, people, signing_in)
        self.modules = [*(routes for part in parts for routes in part.routes), *self._own_routes()]
        self.federation_modules: list[Routes] = [FederationOpenIdRoutes(signing_in.openid)]
        self.federation: Federation | None = None
        if ground.other_servers is not None and ground.outbound is not None:
            self.federation = self._federation(ground.other_servers)
            self.modules.append(DestinationRoutes(ground.outbound.destinations))
            self.federation_modules += self.federation.routes

    def _own_routes(self) -> list[Routes]:
        """What clients, proxies and other replicas ask about the server itself."""
        config, ground = self.config, self.ground
        consumers = (ground.consumers, ground.user_consumers)
        return [
            CapabilityRoutes(
                default_room_version=config.rooms.default_version,
                password_login=config.auth.password_login,
                login_tokens=config.auth.login_tokens,
                limits=config.limits,
            ),
            AssetRoutes(),
            ThirdPartyNetworkRoutes(),
            VoipRoutes(config.turn, config.calls, ground.now),
            WellKnownRoutes(config.well_known, config.public_url, config.calls),
            VersionRoutes(),
            HealthRoutes(
                ground.others, ground.replica, consumers, self.store, config.signing_key_path, ground.now
            ),
            ReplicaRoutes(ground.others, ground.replica, *consumers),
        ]

    def _federation(self, other_servers: OtherServers) -> Federation:
        ground, people, conversations = self.ground, self.people, self.conversations
        domain = Domain(
            rooms=ground.rooms,
            author=conversations.author,
            restricted=conversations.restricted,
            permission=conversations.permission,
            limits=ground.limits,
            visibility=conversations.visibility,
            hierarchy=conversations.hierarchy,
            directory=conversations.directory,
            aliases=conversations.aliases,
            third_party=conversations.third_party,
            accounts=people.accounts,
            profiles=people.profiles,
            told_keys=self.encryption.told_keys,
            typing=conversations.typing,
            receipts=conversations.receipts,
            presence=people.presence,
            to_device=self.encryption.to_device,
            remote_lists=self.encryption.remote_lists,
            media=self.media.repository,
            thumbnails=self.media.thumbnails,
            replica=ground.replica,
            to_others=ground.to_others,
        )
        federation = Federation(self.config, other_servers, self.store, domain, ground.now)
        for part in (conversations.membership, conversations.aliases, conversations.third_party):
            part.elsewhere = federation.remote_rooms
        conversations.history.earlier = federation.backfill
        return federation

    async def start(self) -> None:
        ground, people = self.ground, self.people
        await ground.rooms.start(ground.replica.on_appended)
        await ground.users.start(ground.replica.on_appended)
        await self.syncing.one_time_keys.start(self.store.info.epoch)
        for work, name in (
            (people.last_seen.keep_writing(), "last-seen"),
            (self.syncing.unread_tallies.keep_writing(), "unread-tallies"),
            (self.syncing.to_device.keep_writing(), "received-messages"),
            (self.conversations.superseded.keep_removing(), "superseded"),
            (people.presence.keep_looking(), "presence-look"),
            (people.presence.keep_telling(), "presence-tell"),
            (people.presence_stream.keep_waking(), "presence-wake"),
            (people.presence_reports.keep_reporting(), "presence-report"),
            (ground.shared_limits.keep_telling(), "rate-limits"),
        ):
            self._tasks.append(asyncio.create_task(work, name=name))
        if ground.outbound is not None:
            await ground.outbound.start()
        await ground.replica.start(
            ShardFamily(ground.rooms.writers, ground.consumers),
            ShardFamily(ground.users.writers, ground.user_consumers),
        )
        await people.presence.start()
        # It looks at the shards that the replica was given.
        due_events = self.conversations.due_events.keep_sending()
        self._tasks.append(asyncio.create_task(due_events, name="due-events"))
        if self.federation is not None:
            self.federation.start()

    def web_application(self) -> Application:
        ground = self.ground
        addresses = ClientAddresses(self.config.trusted_proxies, ground.others.is_replica)
        others = ground.others if ground.bus.shared else None
        gate = Gate(self.people.sessions, ground.limits, addresses, others)
        apis = [client_server_api(self.modules, gate)]
        if not self.config.federation.listen:
            apis.append(self._server_server_api())
        return Application(answering(apis, self.requests), self.config.limits.max_body_size)

    def federation_application(self) -> Application:
        """What listens where only other servers are served."""
        return Application(answering([self._server_server_api()], self.requests))

    def _server_server_api(self) -> Api:
        authenticator = None
        if self.federation is not None:
            addresses = ClientAddresses(self.config.trusted_proxies)
            authenticator = LimitedAuthenticator(
                self.federation.others.authenticator, self.ground.limits, addresses
            )
        return server_server_api(self.federation_modules, authenticator)

    def metrics(self, pauses: GcPauses) -> ServerMetrics:
        ground = self.ground
        return ServerMetrics(
            requests=self.requests,
            rooms=ground.rooms,
            users=ground.users,
            long_polls=ground.long_polls,
            limits=ground.limits,
            replica=ground.replica,
            consumers=(*ground.consumers, *ground.user_consumers),
            destinations=ground.outbound.destinations if ground.outbound is not None else None,
            edus_dropped=self.federation.edus.dropped if self.federation is not None else {},
            staged=self.federation.incoming.waiting if self.federation is not None else lambda: (0, 0.0),
            pauses=pauses,
        )

    def answer_polls(self) -> None:
        """Let clients have what there is, and have them go (shutdown)."""
        self.conversations.typing.end()
        self.ground.long_polls.close()

    async def close(self) -> None:
        """Finish what is in flight, then close the store."""
        ground, people = self.ground, self.people
        self.answer_polls()
        await end(self._tasks)
        try:
            await people.last_seen.write()
            await self.syncing.unread_tallies.write()
            await self.syncing.to_device.write()
            await people.presence.write(everything=True)
        except StoreError as error:
            log.warning("what was gathered lately is not written", error=str(error))
        for writer in (*ground.rooms.writers.values(), *ground.users.writers.values()):
            await writer.drain()
        await ground.replica.close()
        if ground.outbound is not None:
            await ground.outbound.close()
        await ground.others.close()
        await self.encryption.remote_lists.close()
        await people.remote_profiles.close()
        await self.signing_in.bindings.close()
        await self.media.remote.close()
        if self.federation is not None:
            await self.federation.close()
        await ground.egress.close()
        await self.syncing.to_device.settle()
        await ground.waking.settle()
        people.passwords.close()
        self.media.thumbnails.close()
        await self.store.close()
