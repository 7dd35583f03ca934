"""Server ACLs: which servers may take part in a room (client-server, "m.room.server_acl").

A room without that state event lets every server in, and there is nothing to compile. With it, compile its
content once per event and ask the result for each request, PDU and room-bound EDU that the server-server
API lists under "Server Access Control Lists".

Names that try to dodge a list are met as follows, always on the side of denying:

* Case and port make no difference.
* A trailing dot names the same host: `evil.com.` is denied by `evil.com`, but not allowed by it.
* Where literals are not allowed, any host whose last label is a number is one (`127.1`, `0x7f.1`,
  `2130706433`), as resolvers read it, not only the dotted quad: no domain name ends so.
* What is no server name by the grammar (a Unicode spelling of a punycode name, a broken port) is denied.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from homeserver.protocol.globs import compile_glob

# spec: appendices#server-name
_SERVER_NAME: Final = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[0-9A-Za-z.-]{1,255})(?::[0-9]{1,5})?")
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")
_REMEMBERED_SERVERS: Final = 1024


class ServerAcl:
    """One room's rule about servers, ready to be asked. Make it with `compile_acl`."""

    def __init__(self, allow: "_Patterns", deny: "_Patterns", allow_ip_literals: bool) -> None:
        self._allow = allow
        self._deny = deny
        self._allow_ip_literals = allow_ip_literals
        # A list of thousands of globs takes milliseconds, and the same few servers are asked about for ever.
        self._decide_once = lru_cache(_REMEMBERED_SERVERS)(self._decide)

    def allows(self, server_name: str) -> bool:
        """Whether this server may take part in the room."""
        return self._decide_once(server_name)

    def _decide(self, server_name: str) -> bool:
        parsed = _SERVER_NAME.fullmatch(server_name)
        if parsed is None:
            return False
        host = parsed[1].lower()
        canonical_host = host.rstrip(".")
        # spec: client-server#mroomserver_acl 2 to 5
        if not self._allow_ip_literals and _is_ip_literal(canonical_host):
            return False
        if any(self._deny.match(name) for name in {host, canonical_host}):
            return False
        return self._allow.match(host)


def compile_acl(content: object) -> ServerAcl:
    """The rule in the content of an `m.room.server_acl` event, which may be anything.

    A missing or malformed list is an empty one, so a content without a proper `allow` shuts every server out;
    entries that are not strings are passed over; `allow_ip_literals` is true unless it is `false`.
    """
    fields = content if isinstance(content, dict) else {}
    return ServerAcl(
        allow=_compile_patterns(fields.get("allow")),
        deny=_compile_patterns(fields.get("deny")),
        allow_ip_literals=fields.get("allow_ip_literals") is not False,
    )


def _is_ip_literal(host: str) -> bool:
    return host.startswith("[") or _NUMBER.fullmatch(host.rpartition(".")[2]) is not None


@dataclass(frozen=True, slots=True)
class _Patterns:
    """A list of globs, sorted by what it takes to try them: most real entries are a look-up in a set."""

    everything: bool
    names: frozenset[str]
    endings: frozenset[str]
    """What follows the star of patterns like `*.example.com`."""
    globs: tuple[Callable[[str], bool], ...]

    def match(self, host: str) -> bool:
        if self.everything or host in self.names:
            return True
        if self.endings and any(host[start:] in self.endings for start in range(len(host))):
            return True
        return any(matches(host) for matches in self.globs)


def _compile_patterns(entries: object) -> _Patterns:
    patterns = {entry.lower() for entry in _items(entries) if isinstance(entry, str)}
    names: set[str] = set()
    endings: set[str] = set()
    globs: list[Callable[[str], bool]] = []
    for pattern in patterns - {"*"}:
        ending = pattern.removeprefix("*")
        if "*" in ending or "?" in ending:
            globs.append(compile_glob(pattern))
        elif ending == pattern:
            names.add(pattern)
        else:
            endings.add(ending)
    return _Patterns("*" in patterns, frozenset(names), frozenset(endings), tuple(globs))


def _items(entries: object) -> Iterable[object]:
    return entries if isinstance(entries, list) else ()
