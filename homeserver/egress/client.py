"""The one HTTP client for all that the server asks of others.

EgressError
├── NotConnected      the request was not sent: no such host, refused, not allowed, no TLS, wrong certificate
├── Interrupted       it may have been sent, and no whole answer came, or not in time
└── TooLarge          the answer is longer than was asked for

No redirect is followed, no cookie kept, no proxy of the environment used. Time is limited as a whole, for
connecting, and between two pieces of an answer; the size of an answer is limited as it is read, unpacked.
"""

import errno
import socket
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, NamedTuple

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from multidict import CIMultiDictProxy
from yarl import URL

from homeserver import __version__
from homeserver.config.options import Egress as Options
from homeserver.egress.addresses import AddressPolicy
from homeserver.egress.names import Names, NoSuchHost

CONNECT_SECONDS = 10.0
SILENT_SECONDS = 30.0
"""Longest pause within an answer, or before it."""
IDLE_SECONDS = 60.0
"""How long a connection is kept for the next request."""
MAX_CONNECTIONS = 500
MAX_CONNECTIONS_PER_HOST = 20


class EgressError(Exception):
    """A request came to nothing; the message says why."""


class NotConnected(EgressError):
    """The request was not sent."""


class Interrupted(EgressError):
    """The request may have been sent, but there is no whole answer."""


class TooLarge(EgressError):
    """The answer is longer than wanted."""


class Answer(NamedTuple):
    """A whole answer."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes


class Incoming:
    """An answer of which the body is still to come."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.status = response.status
        self.headers = response.headers

    async def pieces(self, max_bytes: int) -> AsyncIterator[bytes]:
        """The body as it comes in. Raises TooLarge and Interrupted."""
        left = max_bytes
        declared = self._response.content_length
        with _own_errors():
            if declared is not None and declared > max_bytes:
                raise TooLarge(f"the answer has {declared} bytes, more than {max_bytes}")
            async for piece in self._response.content.iter_any():
                left -= len(piece)
                if left < 0:
                    raise TooLarge(f"the answer has more than {max_bytes} bytes")
                yield piece


class Egress:
    """The way out. To be made within a running event loop, and closed."""

    def __init__(self, options: Options, names: Names) -> None:
        """Raises OSError when the file of certificates cannot be read."""
        self._policy = AddressPolicy(options)
        connector = aiohttp.TCPConnector(
            ssl=_tls_context(options),
            resolver=_Resolver(names),
            use_dns_cache=False,
            socket_factory=self._socket,
            limit=MAX_CONNECTIONS,
            limit_per_host=MAX_CONNECTIONS_PER_HOST,
            keepalive_timeout=IDLE_SECONDS,
        )
        self._http = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": f"Weft/{__version__}"},
            trust_env=False,
        )

    @asynccontextmanager
    async def open(
        self,
        method: str,
        url: URL,
        *,
        seconds: float,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        tls_name: str | None = None,
    ) -> AsyncIterator[Incoming]:
        """Send a request; within the context its answer can be read. All of it has to be over in `seconds`.

        The certificate has to be for the URL's host, or for `tls_name`. Raises EgressError.
        """
        timeout = aiohttp.ClientTimeout(
            total=seconds, connect=CONNECT_SECONDS, sock_connect=CONNECT_SECONDS, sock_read=SILENT_SECONDS
        )
        with _own_errors():
            response = await self._http.request(
                method,
                url,
                headers=headers,
                data=body,
                server_hostname=tls_name,
                allow_redirects=False,
                timeout=timeout,
            )
        async with response:
            yield Incoming(response)

    async def fetch(
        self,
        method: str,
        url: URL,
        *,
        seconds: float,
        max_bytes: int,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        tls_name: str | None = None,
    ) -> Answer:
        """Send a request and read the whole answer; see `open`. Raises EgressError."""
        async with self.open(
            method, url, seconds=seconds, headers=headers, body=body, tls_name=tls_name
        ) as incoming:
            read = b"".join([piece async for piece in incoming.pieces(max_bytes)])
            return Answer(incoming.status, incoming.headers, read)

    async def close(self) -> None:
        await self._http.close()

    def _socket(self, address: tuple[Any, ...]) -> socket.socket:
        """Called with each address right before it is connected to."""
        family, kind, protocol, _, (host, *_) = address
        if not self._policy.allows(host):
            raise PermissionError(errno.EACCES, f"{host} is not an address that may be connected to")
        return socket.socket(family, kind, protocol)


class _Resolver(AbstractResolver):
    """Our look-up, in the form in which the library wants it."""

    def __init__(self, names: Names) -> None:
        self._names = names

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        try:
            addresses = await self._names.addresses(host)
        except NoSuchHost as error:
            raise OSError(errno.EHOSTUNREACH, str(error)) from error
        return [
            ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=0)
            for address in addresses
        ]

    async def close(self) -> None:
        return


@contextmanager
def _own_errors() -> Iterator[None]:
    try:
        yield
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL) as error:
        raise NotConnected(_reason(error)) from error
    except (aiohttp.ClientError, TimeoutError) as error:
        raise Interrupted(_reason(error)) from error


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


def _tls_context(options: Options) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if options.ca is not None:
        try:
            context.load_verify_locations(options.ca)
        except OSError as error:  # ssl.SSLError is one.
            raise OSError(f"egress.ca: no certificates can be read from {options.ca}: {error}") from error
    if not options.verify_certificates:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
