"""Names: the hosts file of the machine and the DNS, asked without holding up a thread.

The system's own look-up is not used. It blocks a thread for as long as a stranger's name server likes,
knows no SRV records, and reads `127.1` and `0x7f000001` as addresses.
"""

import asyncio
import time
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import dns.asyncresolver
import dns.exception
import dns.resolver
from dns.rdata import Rdata
from dns.rdtypes.IN.A import A
from dns.rdtypes.IN.AAAA import AAAA
from dns.rdtypes.IN.SRV import SRV

HOSTS = Path("/etc/hosts")
RESOLV_CONF = Path("/etc/resolv.conf")

MAX_ANSWERS = 2_000
"""Answers of the DNS that are remembered, for as long as they say, within bounds."""
MAX_KEPT_SECONDS = 3600.0
MAX_ABSENT_SECONDS = 60.0
"""That there is no such record. Some name servers do not say how long that holds."""
LOOKUP_SECONDS = 5.0
MAX_RECORDS = 16
"""Of one kind under one name; more are passed over."""


class NoSuchHost(Exception):
    """The name leads to no address, or the DNS did not say in time."""


class Service(NamedTuple):
    """One SRV record (RFC 2782)."""

    priority: int
    weight: int
    port: int
    target: str
    """A host name; "." says that there is no such service."""


T = TypeVar("T")


class Cache(dns.resolver.LRUCache):
    """Answers of the DNS."""

    def __init__(self) -> None:
        super().__init__(MAX_ANSWERS)

    def put(self, key: dns.resolver.CacheKey, value: dns.resolver.Answer) -> None:
        most = MAX_KEPT_SECONDS if value.rrset is not None else MAX_ABSENT_SECONDS
        value.expiration = min(value.expiration, time.time() + most)
        super().put(key, value)


class _Watched(Generic[T]):
    """What a file says, read anew when the file has changed."""

    def __init__(self, path: Path, read: Callable[[Path], T]) -> None:
        """`read` copes with a file that is not there."""
        self._path = path
        self._read = read
        self._version: tuple[int, int] | None = None
        self._value: T

    def __call__(self) -> T:
        try:
            stat = self._path.stat()
            version = (stat.st_mtime_ns, stat.st_ino)
        except OSError:
            version = (0, 0)
        if version != self._version:
            self._value = self._read(self._path)
            self._version = version
        return self._value


class Names:
    """Looks names up."""

    def __init__(self, hosts: Path = HOSTS, resolver: dns.asyncresolver.Resolver | None = None) -> None:
        """`resolver` asks the name servers it knows instead of those of the machine."""
        self._hosts = _Watched(hosts, _read_hosts)
        self._resolver: Callable[[], dns.asyncresolver.Resolver] = (
            _Watched(RESOLV_CONF, _read_resolv_conf) if resolver is None else lambda: resolver
        )

    async def addresses(self, host: str) -> list[str]:
        """The addresses of a host. Raises NoSuchHost."""
        known = self._hosts().get(host.lower().rstrip("."))
        if known is not None:
            return known
        answers = await asyncio.gather(self._resolve(host, "AAAA"), self._resolve(host, "A"))
        found = [
            record.address for records, _ in answers for record in records if isinstance(record, A | AAAA)
        ]
        if not found:
            raise NoSuchHost("; ".join(sorted({problem for _, problem in answers})))
        return found

    async def services(self, name: str) -> list[Service]:
        """The SRV records under a name, in no order; none also when the DNS does not answer."""
        records, _ = await self._resolve(name, "SRV")
        return [
            Service(record.priority, record.weight, record.port, record.target.to_text())
            for record in records
            if isinstance(record, SRV)
        ]

    async def _resolve(self, name: str, kind: str) -> tuple[list[Rdata], str]:
        """(records, why there are none)."""
        try:
            answer = await self._resolver().resolve(name, kind, lifetime=LOOKUP_SECONDS, search=False)
        except dns.exception.DNSException as error:
            return [], str(error)
        return list(answer)[:MAX_RECORDS], ""


def _read_hosts(path: Path) -> dict[str, list[str]]:
    """Name → addresses."""
    hosts: dict[str, list[str]] = {}
    try:
        text = path.read_text("utf-8", errors="replace")
    except OSError:
        return hosts
    for line in text.splitlines():
        address, *names = line.partition("#")[0].split() or [""]
        try:
            ip_address(address)
        except ValueError:
            continue
        for name in names:
            hosts.setdefault(name.lower(), []).append(address)
    return hosts


def _read_resolv_conf(path: Path) -> dns.asyncresolver.Resolver:
    resolver = dns.asyncresolver.Resolver(configure=False)
    try:
        resolver.read_resolv_conf(str(path))
    except (OSError, dns.resolver.NoResolverConfiguration):
        # As the system's own look-up has it (resolv.conf(5)).
        resolver.nameservers = ["127.0.0.1"]
    resolver.cache = Cache()
    return resolver
