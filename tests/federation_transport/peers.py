"""Other homeservers, as far as keys go; they can lie in anything."""

import json
from pathlib import Path
from typing import Any

from aiohttp import web

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
from homeserver.config.options import Federation
from homeserver.protocol.json_types import JsonObject
from homeserver.protocol.signing import SigningKey, sign_json
from storage.collection import CollectionSpec
from storage.log import ShardMap
from storage.records.remote_keys import REMOTE_KEYS
from storage.records.server_key import RetiredKey
from storage.sqlite import open_store
from storage.store import Store
from tests.federation_transport.network import Internet, Site, Time

KEYS_PATH = "/_matrix/key/v2/server"
DAY = 24 * 3_600_000


def key_of(name: str, version: str = "a_1") -> SigningKey:
    """A key that goes with a name."""
    return SigningKey.from_seed(version, f"{name} {version}".encode().ljust(32)[:32])


def published(
    server: str,
    keys: list[SigningKey],
    valid_until: int,
    *,
    old: dict[SigningKey, int] | None = None,
    signers: list[SigningKey] | None = None,
    **changes: Any,
) -> JsonObject:
    """What a server says of its keys, with `changes` made before it is signed."""
    said: JsonObject = {
        "server_name": server,
        "valid_until_ts": valid_until,
        "verify_keys": {key.key_id: {"key": key.verify_key_base64} for key in keys},
        "old_verify_keys": {
            key.key_id: {"key": key.verify_key_base64, "expired_ts": expired}
            for key, expired in (old or {}).items()
        },
        **changes,
    }
    for key in keys if signers is None else signers:
        said = sign_json(said, server, key)
    return said


class Peer:
    """Another server, that answers what its keys are."""

    def __init__(self, name: str, site: Site, time: Time) -> None:
        self.name = name
        self.site = site
        self.key = key_of(name)
        self.say(published(name, [self.key], time() + DAY))

    @classmethod
    async def at(cls, internet: Internet, name: str, time: Time) -> "Peer":
        return cls(name, await internet.host(name), time)

    def say(self, keys: JsonObject) -> None:
        self.site.answer(KEYS_PATH, json.dumps(keys))

    def say_as_notary(self, *answers: JsonObject) -> None:
        self.site.answer("/_matrix/key/v2/query", json.dumps({"server_keys": answers}))

    def fail(self, status: int = 503) -> None:
        self.site.answer(KEYS_PATH, b"", status)

    @property
    def asked(self) -> int:
        """How often it was asked for its keys."""
        return sum(seen.target == KEYS_PATH for seen in self.site.seen)


class Server:
    """All of federation that needs no rooms, for one server."""

    def __init__(self, internet: Internet, store: Store, time: Time, name: str, options: Federation) -> None:
        self.name = name
        self.key = key_of(name)
        self.retired = (RetiredKey("ed25519:a_0", key_of(name, "a_0").verify_key_base64, time() - DAY),)
        self.store = store
        names = internet.names()
        egress = internet.egress(names)
        well_known = WellKnown(egress, time, seconds=options.discovery_timeout / 1000)
        discovery = Discovery(names, well_known, time, seconds=options.discovery_timeout / 1000)
        self.transport = Transport(discovery, egress)
        allowed = allowed_servers(options)
        self.backoff = Backoff(time)
        self.own = OwnKeys(name, self.key, self.retired, time)
        self.keys = store.collection(REMOTE_KEYS)
        self.ring = KeyRing(self.own, self.keys, self.transport, allowed, time, notaries=options.notaries)
        self.notary = Notary(self.own, self.ring, time)
        self.client = FederationClient(name, self.key, self.transport, allowed, self.backoff)
        self.authenticator = Authenticator(name, self.ring, allowed, self.backoff)

    async def close(self) -> None:
        await self.ring.close()
        await self.transport.close()

    async def listen(self, internet: Internet) -> Site:
        """Be another server to others: publish keys, and tell each caller who it is."""
        site = await internet.host(self.name)

        async def keys(_: web.BaseRequest) -> web.Response:
            return web.json_response(self.own.answer())

        async def who(request: web.BaseRequest) -> web.Response:
            body = await request.read()
            origin = await self.authenticator.origin(
                request.method,
                request.raw_path,
                request.headers.getall("Authorization", []),
                json.loads(body) if body else None,
            )
            return web.json_response({"origin": origin})

        site.pages = {KEYS_PATH: keys, "/_matrix/federation/v1/who": who}
        return site


async def new_store(folder: Path, *specs: CollectionSpec[Any]) -> Store:
    return await open_store(
        f"sqlite:///{folder / 'weft.db'}",
        server_name="own.example.org",
        shards=ShardMap(1, 1),
        specs=(REMOTE_KEYS, *specs),
    )
