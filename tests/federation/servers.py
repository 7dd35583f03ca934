"""A whole Weft server that others talk to over TLS, and other servers that sign what the tests want.

Servers have addresses of the loopback network for names, so that they find each other without a DNS. What
they answer is checked against the specification's own data where that lies beside the repository.
"""

import json
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp
from aiohttp import web
from msgspec.structs import replace
from yarl import URL

from federation.request_auth import authorization
from homeserver.app.stores import replace_signing_key
from homeserver.clock import system_clock
from homeserver.config.options import Egress, Federation, FederationTls
from homeserver.config.units import Address
from homeserver.protocol.json_types import JsonObject
from homeserver.protocol.signing import SigningKey
from homeserver.tls import served_with
from rest.connections import runner_of
from tests.client_api.conftest import VALIDATOR, Reply, Server
from tests.federation_transport.network import CA, LOOPBACK, Internet, Time, new_address
from tests.federation_transport.peers import Peer
from tests.stores import SqliteFile, StoredData

V1 = "/_matrix/federation/v1"
V2 = "/_matrix/federation/v2"
PORT = 8448
"""Where a server listens whose name says nothing else."""
UNSPECIFIED = ("GET /_matrix/key/v2/server/", f"POST {V1}/3pid/onbind")
"""What Sydent calls, by the specification of before version 1.7 and of none."""


class Homeserver(Server):
    """A server by the name of its address, with a listener for other servers beside that for clients."""

    def __init__(self, folder: Path, data: StoredData | None = None) -> None:
        """`data`: where its store is, if not in the folder."""
        folder.mkdir(mode=0o700)
        super().__init__(folder, data or SqliteFile(folder), 1)
        self.name = new_address()
        issued = CA.issue_cert(self.name)
        certificate, key, authority = folder / "certificate.pem", folder / "key.pem", folder / "ca.pem"
        certificate.write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(key)
        CA.cert_pem.write_to_path(authority)
        self.tls = FederationTls(str(certificate), str(key))
        self.config = replace(
            self.config,
            server_name=self.name,
            egress=Egress(allow_networks=LOOPBACK, ca=str(authority)),
            federation=Federation(listen=(Address(self.name, PORT),), tls=self.tls),
        )
        self._listening: web.BaseRunner | None = None

    async def start(self) -> None:
        await super().start()
        if self.config.federation.listen:
            await self.open_listener()

    async def open_listener(self) -> None:
        """Be there for other servers."""
        self._listening = runner_of(self.app.federation_application())
        await self._listening.setup()
        tls = self.config.federation.tls
        assert tls.certificate is not None
        assert tls.key is not None
        site = web.TCPSite(
            self._listening, self.name, PORT, ssl_context=served_with(tls.certificate, tls.key)
        )
        await site.start()

    async def close_listener(self) -> None:
        """Be there for clients only."""
        if self._listening is not None:
            await self._listening.cleanup()
            self._listening = None

    async def stop(self) -> None:
        await self.close_listener()
        await super().stop()

    async def replace_key(self) -> None:
        """Sign with another key from the next start on; the server must be down."""
        path = self.config.signing_key_path
        path.rename(path.with_name(f"signing.key.{path.stat().st_mtime_ns}"))
        await replace_signing_key(self.config)


class OtherServer:
    """Another server: it publishes its key, and signs requests, rightly unless a test wants otherwise."""

    def __init__(self, peer: Peer, server: Homeserver, http: aiohttp.ClientSession) -> None:
        self.peer = peer
        self.name = peer.name
        self._server = server
        self._http = http
        self._numbers = count()

    async def call(
        self,
        method: str,
        path: str,
        content: Any = None,
        *,
        query: dict[str, str] | None = None,
        expect: int | None = 200,
        **how: Any,
    ) -> Reply:
        """One request; `how`: see `signature`, and `sent`, the bytes to send in place of the content.

        `expect=None` takes any status.
        """
        target = path + ("?" + urlencode(query) if query else "")
        sent = how.pop("sent", None)
        headers = (
            {"Authorization": how["header"]}
            if "header" in how
            else self.signature(method, target, content, **how)
        )
        if sent is None and content is not None:
            sent = json.dumps(content).encode()
        url = URL(f"https://{self._server.name}:{PORT}{target}", encoded=True)
        async with self._http.request(method, url, data=sent, headers=headers) as response:
            raw = await response.read()
            is_json = response.content_type == "application/json"
            reply = Reply(response.status, json.loads(raw) if is_json else raw, dict(response.headers))
        specified = reply.errcode != "M_UNRECOGNIZED" and not f"{method} {path}".startswith(UNSPECIFIED)
        if is_json and VALIDATOR is not None and specified:
            problems = VALIDATOR.check_response(method, target, reply.status, reply.body)
            assert not problems, "\n".join(map(str, problems))
        if expect is not None:
            assert reply.status == expect, f"{method} {path}: {reply.status} {reply.body!r}"
        return reply

    async def get(self, path: str, **how: Any) -> Any:
        return (await self.call("GET", path, **how)).body

    async def post(self, path: str, content: Any, **how: Any) -> Any:
        return (await self.call("POST", path, content, **how)).body

    async def send(self, *pdus: JsonObject, edus: Any = (), txn_id: str = "", **how: Any) -> Reply:
        """A transaction, a new one unless it is named."""
        transaction = {"origin": self.name, "origin_server_ts": 1, "pdus": list(pdus), "edus": list(edus)}
        name = txn_id or f"t{next(self._numbers)}"
        return await self.call("PUT", f"{V1}/send/{name}", transaction, **how)

    async def show_life(self) -> None:
        """Any request is a sign of life."""
        await self.send()

    def signature(
        self,
        method: str,
        target: str,
        content: Any = None,
        *,
        key: SigningKey | None = None,
        origin: str | None = None,
        destination: str | None = None,
        signed: bool = True,
    ) -> dict[str, str]:
        """The header that proves the request to be this server's."""
        if not signed:
            return {}
        header = authorization(
            method,
            target,
            origin or self.name,
            destination or self._server.name,
            key or self.peer.key,
            content,
        )
        return {"Authorization": header}


async def another(internet: Internet, server: Homeserver, http: aiohttp.ClientSession) -> OtherServer:
    name = new_address()
    time = Time()
    time.now = system_clock()
    site = await internet.site(name, port=PORT, address=name)
    return OtherServer(Peer(name, site, time), server, http)
