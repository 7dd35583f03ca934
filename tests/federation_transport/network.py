"""A small internet of the tests' own: a name server, certificates, and sites on loopback addresses."""

import asyncio
import itertools
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dns.asyncresolver
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.resolver
import dns.rrset
import trustme
from aiohttp import web
from yarl import URL

from homeserver.config.options import Egress as EgressOptions
from homeserver.config.units import Network
from homeserver.egress.client import Egress, Incoming
from homeserver.egress.names import Cache, Names

LOOPBACK = (Network.parse("127.0.0.0/8"), Network.parse("::1"))
CA = trustme.CA()

_ADDRESSES = itertools.count(1)


def new_address() -> str:
    """A loopback address that no other test has, so that all can use the port they have to."""
    number = next(_ADDRESSES)
    return f"127.{os.getpid() % 250 + 2}.{number // 250}.{number % 250 + 1}"


class Time:
    """A clock that tests set (ms)."""

    def __init__(self) -> None:
        self.now = 1_700_000_000_000

    def __call__(self) -> int:
        return self.now

    def pass_ms(self, ms: int) -> None:
        self.now += ms


class NameServer(asyncio.DatagramProtocol):
    """Answers over UDP what the tests put in; the rest does not exist."""

    def __init__(self) -> None:
        self.records: dict[tuple[str, str], list[list[str]]] = {}
        """(name, type) → answers, one after the other, the last one for ever."""
        self.ttl = 0
        self.silent: set[str] = set()
        self.failing: set[str] = set()
        self.asked: list[tuple[str, str]] = []
        self._transport: asyncio.DatagramTransport

    def add(self, name: str, kind: str, *answers: list[str]) -> None:
        self.records[name.lower(), kind] = list(answers)

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        query = dns.message.from_wire(data)
        (question,) = query.question
        name, kind = (
            question.name.to_text(omit_final_dot=True).lower(),
            dns.rdatatype.to_text(question.rdtype),
        )
        self.asked.append((name, kind))
        if name in self.silent:
            return
        response = dns.message.make_response(query)
        response.flags |= dns.flags.RA
        answers = self.records.get((name, kind))
        if name in self.failing:
            response.set_rcode(dns.rcode.SERVFAIL)
        elif answers:
            records = answers.pop(0) if len(answers) > 1 else answers[0]
            response.answer.append(dns.rrset.from_text(question.name, self.ttl, "IN", kind, *records))
        elif not any(name == known for known, _ in self.records):
            response.set_rcode(dns.rcode.NXDOMAIN)
        self._transport.sendto(response.to_wire(), addr)

    @property
    def port(self) -> int:
        port: int = self._transport.get_extra_info("sockname")[1]
        return port

    def close(self) -> None:
        self._transport.close()


@dataclass(frozen=True)
class Seen:
    """A request as a site saw it."""

    method: str
    target: str
    host: str
    sni: str | None
    headers: Mapping[str, str]
    body: bytes
    connection: int
    """Requests over one connection have the same."""


Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


@dataclass
class Site:
    """A server with a certificate for `names`; what it has no page for is not found."""

    address: str
    port: int
    pages: dict[str, web.Response | Handler] = field(default_factory=dict)
    below: dict[str, Handler] = field(default_factory=dict)
    """Who answers for all pages whose path begins alike."""
    seen: list[Seen] = field(default_factory=list)
    handshakes: list[str | None] = field(default_factory=list)

    def answer(self, path: str, body: bytes | str, status: int = 200, **headers: str) -> None:
        content = body.encode() if isinstance(body, str) else body
        named = {name.replace("_", "-"): value for name, value in headers.items()}

        async def handler(request: web.BaseRequest) -> web.Response:
            return web.Response(body=content, status=status, headers=named)

        self.pages[path] = handler

    def redirect(self, path: str, location: str) -> None:
        self.answer(path, b"", 302, Location=location)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        assert request.transport is not None
        tls = request.transport.get_extra_info("ssl_object")
        self.seen.append(
            Seen(
                request.method,
                request.raw_path,
                request.headers["Host"],
                getattr(tls, "sni", None),
                request.headers,
                await request.read(),
                id(request.transport),
            )
        )
        page = self.pages.get(request.path)
        if page is None:
            page = next((page for path, page in self.below.items() if request.path.startswith(path)), None)
        if page is None:
            return web.json_response({"errcode": "M_UNRECOGNIZED", "error": "no"}, status=404)
        return await page(request) if not isinstance(page, web.Response) else page


class Internet:
    """What the tests' servers find around them."""

    def __init__(self) -> None:
        self.name_server = NameServer()
        self.https_port: dict[str, int] = {}
        """Host → port of what listens there in place of port 443, which needs root."""
        self._closing: list[Callable[[], Awaitable[None]]] = []

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        await loop.create_datagram_endpoint(lambda: self.name_server, local_addr=("127.0.0.1", 0))

    async def close(self) -> None:
        for close in reversed(self._closing):
            await close()
        self.name_server.close()

    def names(self) -> Names:
        """A look-up that asks the name server of this internet."""
        resolver = dns.asyncresolver.Resolver(configure=False)
        resolver.nameservers = ["127.0.0.1"]
        resolver.port = self.name_server.port
        resolver.cache = Cache()
        return Names(Path(os.devnull), resolver)

    def egress(self, names: Names | None = None, **options: Any) -> "MappedEgress":
        """A way out into this internet; to be closed with it."""
        settings = {"allow_networks": LOOPBACK, **options}
        egress = MappedEgress(EgressOptions(**settings), names or self.names(), self.https_port)
        CA.configure_trust(egress.tls)
        self._closing.append(egress.close)
        return egress

    async def site(
        self, *names: str, port: int = 8448, address: str | None = None, tls: ssl.SSLContext | None = None
    ) -> Site:
        """Something that listens, with a certificate for `names`."""
        site = Site(address or new_address(), port)
        context = tls or certificate(*names, site.address)

        def on_sni(connection: Any, sni: str | None, _: ssl.SSLContext) -> None:
            site.handshakes.append(sni)
            connection.sni = sni

        context.sni_callback = on_sni
        server = await asyncio.get_running_loop().create_server(
            web.Server(site.handle), site.address, port, ssl=context
        )
        site.port = server.sockets[0].getsockname()[1]
        self._close_later(server)
        return site

    async def host(self, name: str, port: int = 8448) -> Site:
        """A site under a name of the DNS, on a well-known port."""
        site = await self.site(name, port=port)
        self.name_server.add(name, "A", [site.address])
        return site

    async def web(self, name: str) -> Site:
        """The web server of a domain, at what stands for port 443."""
        site = await self.host(name, 0)
        self.https_port[name] = site.port
        return site

    async def raw(
        self, name: str, talk: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
    ) -> Site:
        """Something under a name that speaks TLS, and then whatever it likes."""
        site = Site(new_address(), 8448)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await talk(reader, writer)
            except (ConnectionError, asyncio.IncompleteReadError):
                pass
            finally:
                writer.close()

        server = await asyncio.start_server(serve, site.address, 0, ssl=certificate(name))
        site.port = server.sockets[0].getsockname()[1]
        self.name_server.add(name, "A", [site.address])
        self._close_later(server)
        return site

    def _close_later(self, server: asyncio.Server) -> None:
        async def close() -> None:
            server.close()

        self._closing.append(close)


class MappedEgress(Egress):
    """The real one, except that port 443 of a host is another port, which tests may listen on."""

    def __init__(self, options: EgressOptions, names: Names, https_port: Mapping[str, int]) -> None:
        super().__init__(options, names)
        self._https_port = https_port

    @property
    def tls(self) -> ssl.SSLContext:
        context = self._http.connector._ssl  # type: ignore[union-attr]
        assert isinstance(context, ssl.SSLContext)
        return context

    @asynccontextmanager
    async def open(self, method: str, url: URL, **how: Any) -> AsyncIterator[Incoming]:
        if url.port == 443:
            how["headers"] = {"Host": url.host or "", **(how.get("headers") or {})}
            url = url.with_port(self._https_port.get(url.host or "", 1))
        async with super().open(method, url, **how) as incoming:
            yield incoming


def certificate(*names: str, ca: trustme.CA = CA) -> ssl.SSLContext:
    """A server's side of TLS, with a certificate for host names and addresses."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert(*names).configure_cert(context)
    return context
