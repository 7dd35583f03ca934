"""The kinds of value an option can have beyond plain text and numbers.

Each is made from the text an admin writes (`parse`), behaves as the plain Python value the server computes
with (milliseconds, bytes, text), and turns back into the text it was written as (`str`). A text that
cannot be read raises ValueError with a sentence that says what would do.
"""

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from pathlib import Path
from typing import ClassVar, Self


class _Quantity(int):
    """A whole number of the smallest unit, written with a larger one."""

    UNITS: ClassVar[dict[str, int]]
    KIND: ClassVar[str]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `<number><unit>`, e.g. `5m`; `0` needs no unit."""
        match = re.fullmatch(r"([0-9]{1,15}) ?([A-Za-z]{0,2})", text.strip())
        if match is not None:
            number, unit = int(match[1]), match[2]
            if unit in cls.UNITS:
                return cls(number * cls.UNITS[unit])
            if number == 0 and not unit:
                return cls(0)
        raise ValueError(f"not a number with one of the units {', '.join(filter(None, cls.UNITS))}")

    def __str__(self) -> str:
        for unit, size in sorted(self.UNITS.items(), key=lambda item: -item[1]):
            if self and self % size == 0:
                return f"{int(self)}" if size == 1 and not unit else f"{int(self) // size}{unit}"
        return "0"


class Duration(_Quantity):
    """A length of time: an int of milliseconds, written `500ms`, `30s`, `5m`, `12h`, `7d`, `2w`."""

    UNITS: ClassVar = {
        "ms": 1,
        "s": 1000,
        "m": 60_000,
        "h": 3_600_000,
        "d": 86_400_000,
        "w": 604_800_000,
    }
    KIND = "a duration such as 30s, 5m, 12h or 7d"


class Size(_Quantity):
    """An amount of memory or disk: an int of bytes, written `65536`, `100K`, `50M`, `2G` (powers of 1024)."""

    UNITS: ClassVar = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}
    KIND = "a size such as 100K, 50M or 2G"


class Address:
    """Where to listen: an IP address or a host name, and a TCP port: `127.0.0.1:8008`, `[::1]:8008`."""

    __slots__ = ("host", "port")

    KIND: ClassVar[str] = "an address such as 127.0.0.1:8008 or [::]:8008"

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port

    @classmethod
    def parse(cls, text: str) -> Self:
        host, colon, port = text.strip().rpartition(":")
        bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
        well_formed = bare and (":" in bare) == (bare != host)
        if colon and well_formed and re.fullmatch(r"[0-9]{1,5}", port) and int(port) <= 65535:
            return cls(bare, int(port))
        raise ValueError("not an address and a port")

    @property
    def is_loopback(self) -> bool:
        """Can only this machine connect to it?"""
        return self.host in ("localhost", "::1") or bool(re.fullmatch(r"127(\.[0-9]{1,3}){3}", self.host))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Address) and (self.host, self.port) == (other.host, other.port)

    def __hash__(self) -> int:
        return hash((self.host, self.port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __repr__(self) -> str:
        return f"Address({str(self)!r})"


class Network:
    """A range of IP addresses, written `10.0.0.0/8`, or a single one, written `::1`."""

    __slots__ = ("_network",)

    KIND: ClassVar[str] = "an IP address or a network, such as 10.0.0.0/8"

    def __init__(self, network: IPv4Network | IPv6Network) -> None:
        self._network = network

    @classmethod
    def parse(cls, text: str) -> Self:
        return cls(ip_network(text.strip()))

    def __contains__(self, address: IPv4Address | IPv6Address) -> bool:
        return address in self._network

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Network) and self._network == other._network

    def __hash__(self) -> int:
        return hash(self._network)

    def __str__(self) -> str:
        whole = self._network.prefixlen == self._network.max_prefixlen
        return str(self._network.network_address if whole else self._network)

    def __repr__(self) -> str:
        return f"Network({str(self)!r})"


class Secret(str):
    """Text that is never shown. `file:/path` reads it from that file (without the last line break)."""

    __slots__ = ()

    KIND: ClassVar[str] = "a secret, or file:/path/to/it"
    FILE_PREFIX: ClassVar[str] = "file:"

    @classmethod
    def parse(cls, text: str) -> Self:
        if text.startswith(cls.FILE_PREFIX):
            path = Path(text.removeprefix(cls.FILE_PREFIX))
            try:
                text = path.read_text("utf-8").rstrip("\r\n")
            except (OSError, UnicodeDecodeError) as error:
                reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
                raise ValueError(f"cannot read the secret from {path}: {reason}") from error
        if not text:
            raise ValueError("the secret is empty")
        return cls(text)

    def masked(self) -> str:
        """What may be shown of it."""
        return "********"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.masked()!r})"


class SecretUri(Secret):
    """A URI of which the user name and password are never shown. `file:/path` reads it from that file."""

    __slots__ = ()

    KIND = "a URI, or file:/path/to/it"

    @classmethod
    def parse(cls, text: str) -> Self:
        uri = super().parse(text)
        if not re.match(r"[a-z][a-z0-9+.-]*:", uri):
            raise ValueError("not a URI")
        return uri

    def masked(self) -> str:
        return re.sub(r"//[^/?#]*@", "//********@", self, count=1)
