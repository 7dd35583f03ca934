"""The whole examination, in the order in which one thing leans on the other."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import aiohttp
import msgspec

from homeserver.bus.bus import BusUnavailable
from homeserver.bus.opening import check_bus, occupant_of
from homeserver.clock import Clock
from homeserver.config import Config
from homeserver.config.units import Address
from homeserver.doctor.findings import Finding, fail, ok, warn
from homeserver.doctor.health import PATH, Health
from homeserver.doctor.machine import ANSWER_SECONDS, absent, address_findings, file_findings
from homeserver.doctor.replicas import replica_findings
from homeserver.doctor.stored import store_findings
from storage.errors import StoreError
from storage.log import ShardMap
from storage.store import Occupant, Store

OWN_KEYS = "/_matrix/key/v2/server"


class _OwnKeys(msgspec.Struct):
    """What a server says of its keys, as far as it matters here."""

    server_name: str


class Diagnosis:
    """One examination of one configuration, whether its server runs or not."""

    def __init__(
        self,
        config: Config,
        open_store: Callable[[], Awaitable[Store]],
        proof: Mapping[str, str],
        now: Clock,
    ) -> None:
        """`proof`: headers by which replicas believe each other; none when there is no signing key."""
        self._config = config
        self._open_store = open_store
        self._proof = proof
        self._now = now
        self._http: aiohttp.ClientSession

    async def findings(self) -> list[Finding]:
        timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout) as self._http:
            found = [
                ok("configuration", f"of {self._config.server_name}, nothing is wrong with it by itself")
            ]
            found += await asyncio.to_thread(lambda: list(file_findings(self._config)))
            here, health, listening = await self._local_server()
            found += listening
            found += await address_findings(self._config, self._http, running=health is not None)
            if health is not None:
                found += await asyncio.gather(*map(self._for_others, self._config.federation.listen))
            found += health.store if health is not None else await self._stopped_store()
            found += await self._bus()
            if health is not None:
                others = {*health.owners.values()} - {here}
                asked = await asyncio.gather(*(self._health(address) for address in others))
                replicas = {here: health, **dict(zip(others, asked, strict=True))}
                found += replica_findings(here, replicas, self._now())
            return found

    # The servers

    async def _local_server(self) -> tuple[str, Health | None, list[Finding]]:
        """(address, health if it runs, findings) of the server of this configuration on this machine."""
        findings = []
        for address in self._config.listen:
            here = _reached_at(address)
            try:
                _, writer = await asyncio.wait_for(
                    asyncio.open_connection(_host(address), address.port), ANSWER_SECONDS
                )
                writer.close()
            except (OSError, TimeoutError):
                findings.append(warn("listen", f"nothing listens on {address}", "start it: weft serve"))
                continue
            health = await self._health(here)
            if health is not None and health.server_name == self._config.server_name:
                return self._known_as(health, here), health, [*findings, ok("listen", f"{address} answers")]
            findings.append(
                fail(
                    "listen",
                    f"what listens on {address} is not the server of this configuration and signing key",
                    "stop that program, or change listen",
                )
            )
        return "", None, findings

    def _known_as(self, health: Health, here: str) -> str:
        """By which address the other replicas know the one that is reached here."""
        return next((health.owners[shard] for shard in health.own if shard in health.owners), here)

    async def _health(self, address: str) -> Health | None:
        try:
            async with self._http.get(f"http://{address}{PATH}", headers=self._proof) as response:
                if response.status == 200:
                    return msgspec.json.decode(await response.read(), type=Health)
        except (aiohttp.ClientError, TimeoutError, msgspec.DecodeError):
            pass
        return None

    async def _for_others(self, address: Address) -> Finding:
        """Whether the running server serves other homeservers at an address. Whom its certificate is for is
        theirs to check: they know it by its name."""
        scheme = "http" if self._config.federation.tls.certificate is None else "https"
        url = f"{scheme}://{_reached_at(address)}{OWN_KEYS}"
        try:
            async with self._http.get(url, ssl=False) as response:
                told = msgspec.json.decode(await response.read(), type=_OwnKeys).server_name
        except (aiohttp.ClientError, TimeoutError, msgspec.DecodeError):
            told = ""
        if told != self._config.server_name:
            text = f"what listens on {address} does not show the signing key of this server"
            return fail("federation.listen", text, "stop that program, or change federation.listen; restart")
        return ok("federation.listen", f"{address} answers other servers")

    # The store and the bus

    async def _stopped_store(self) -> list[Finding]:
        uri = self._config.storage.uri
        path = Path(uri.removeprefix("sqlite:///"))
        if uri.startswith("sqlite:") and await asyncio.to_thread(absent, path):
            return [warn("store", f"there is no {path} yet", "the first start makes it")]
        try:
            store = await self._open_store()
        except StoreError as error:
            return [fail("store", str(error))]
        try:
            here = await self._occupant()
            return await store_findings(store, self._config.signing_key_path, self._now, here)
        finally:
            await store.close()

    async def _occupant(self) -> Occupant:
        """A server that would be started here."""
        options, name = self._config.bus, self._config.server_name
        try:
            return await occupant_of(options, name)
        except BusUnavailable:  # It is a finding of its own.
            return Occupant(name, options.topic_prefix)

    async def _bus(self) -> list[Finding]:
        options, storage = self._config.bus, self._config.storage
        if options.uri == "in-process:":
            return [ok("bus", "this server is one process; of others it would not hear without Kafka")]
        try:
            await check_bus(options, ShardMap(storage.room_shards, storage.user_shards))
        except BusUnavailable as error:
            return [fail("bus", str(error))]
        return [ok("bus", f"{options.uri} answers, and its topics are as they must be")]


def _host(address: Address) -> str:
    """Where this machine reaches a server that may listen everywhere."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)


def _reached_at(address: Address) -> str:
    return str(Address(_host(address), address.port))
