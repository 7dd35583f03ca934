"""All that this server needs to speak with others, put together."""

from collections.abc import Sequence

from federation.allowed import allowed_servers
from federation.authenticator import Authenticator
from federation.backoff import Backoff
from federation.client import FederationClient
from federation.discovery import Discovery
from federation.key_ring import KeyRing
from federation.notary import Notary
from federation.own_keys import OwnKeys
from federation.transport import Transport
from federation.well_known import WellKnown
from homeserver.clock import Clock
from homeserver.config import Config
from homeserver.egress.client import Egress
from homeserver.egress.names import Names
from homeserver.protocol.signing import SigningKey
from storage.collection import Collection
from storage.records.remote_keys import RemoteKeys
from storage.records.server_key import RetiredKey


class OtherServers:
    """The other servers: to be asked, recognized, and told of this one's keys."""

    def __init__(
        self,
        config: Config,
        key: SigningKey,
        retired: Sequence[RetiredKey],
        stored: Collection[RemoteKeys],
        names: Names,
        egress: Egress,
        now: Clock,
    ) -> None:
        server_name, options = config.server_name, config.federation
        seconds = options.discovery_timeout / 1000
        self.allowed = allowed = allowed_servers(options)
        self.backoff = backoff = Backoff(now)
        well_known = WellKnown(egress, now, seconds=seconds)
        self.egress = egress
        self.transport = Transport(Discovery(names, well_known, now, seconds=seconds), egress)
        self.own_keys = OwnKeys(server_name, key, retired, now)
        self.key_ring = KeyRing(
            self.own_keys, stored, self.transport, allowed, now, notaries=options.notaries
        )
        self.notary = Notary(self.own_keys, self.key_ring, now)
        self.client = FederationClient(server_name, key, self.transport, allowed, backoff)
        self.authenticator = Authenticator(server_name, self.key_ring, allowed, backoff)

    async def close(self) -> None:
        """End what is being asked."""
        await self.key_ring.close()
        await self.transport.close()
