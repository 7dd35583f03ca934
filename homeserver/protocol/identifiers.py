"""Matrix identifiers: who may be called what (spec: appendices, "Identifier Grammar").

Each check takes the whole identifier and returns it, so that it can stand where the value is used,
or raises InvalidIdentifier with words fit for the one who sent it. Identifiers are checked once, when
they enter; inside the server they are plain strings.

Lengths are in bytes of UTF-8, sigil and domain included.
"""

import re
from ipaddress import AddressValueError, IPv6Address

MAX_LENGTH = 255

_DNS_NAME = re.compile(r"[0-9A-Za-z.-]{1,255}")
_IPV4_LIKE = re.compile(r"[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}")
_IPV6 = re.compile(r"\[([0-9A-Fa-f:.]{2,45})\]")
_PORT = re.compile(r"[0-9]{1,5}")
_NEW_LOCALPART = re.compile(r"[a-z0-9._=/+-]+")
_HASH = re.compile(r"[0-9A-Za-z+/_-]+")
_NAMESPACED = re.compile(r"[a-z][a-z0-9._-]{0,254}")
_OPAQUE = re.compile(r"[0-9A-Za-z._~-]{1,255}")


class InvalidIdentifier(ValueError):
    """The string is not an identifier of the kind that is wanted here."""


def server_name_of(identifier: str) -> str:
    """The domain of a user id, alias, or older room or event id: all after the first colon."""
    _, colon, domain = identifier.partition(":")
    if not colon or not domain:
        raise InvalidIdentifier(f"{identifier[:MAX_LENGTH]!r} names no server")
    return domain


def server_of_member(state_key: str) -> str | None:
    """The server of whom a member event is about, None where that is nobody.

    The auth rules want no user id: whoever may ban can ban what is none.
    """
    return state_key.partition(":")[2] or None


def localpart_of(user_id: str) -> str:
    """What stands between the sigil and the first colon."""
    localpart, colon, _ = user_id[1:].partition(":")
    if not colon or not user_id.startswith("@"):
        raise InvalidIdentifier(f"{user_id[:MAX_LENGTH]!r} is not a user id")
    return localpart


def check_server_name(name: str) -> str:
    """A server name: DNS name, IPv4 or bracketed IPv6 address, with an optional port."""
    if len(name) > MAX_LENGTH:
        raise InvalidIdentifier("a server name is at most 255 bytes long")
    if name.startswith("["):
        host, bracket, rest = name.partition("]")
        host += bracket
        colon, port = rest[:1], rest[1:]
    else:
        host, colon, port = name.partition(":")
    if colon and (colon != ":" or not _PORT.fullmatch(port) or int(port) > 65535):
        raise InvalidIdentifier(f"the server name {name!r} has an invalid port")
    if _DNS_NAME.fullmatch(host):
        # What looks like an address must be one, or it would name a host by a second spelling.
        if not _IPV4_LIKE.fullmatch(host) or all(int(octet) <= 255 for octet in host.split(".")):
            return name
    elif literal := _IPV6.fullmatch(host):
        try:
            IPv6Address(literal[1])
        except AddressValueError:
            pass
        else:
            return name
    raise InvalidIdentifier(f"{name!r} is not a server name")


def check_user_id(user_id: str, *, historical: bool = True) -> str:
    """A user id; `historical` ones may have any localpart, as rooms are full of them.

    spec: appendices#historical-user-ids
    """
    localpart = _check_with_domain(user_id, "@", "user id")
    if not historical and not _NEW_LOCALPART.fullmatch(localpart):
        raise InvalidIdentifier(f"{user_id!r} has characters that a user id may not have")
    return user_id


def check_new_localpart(localpart: str) -> str:
    """The localpart of an account to be made now: a-z, 0-9 and `._=-/+` only.

    How long it may be depends on the server's name: check the whole with `check_user_id`.
    """
    if not _NEW_LOCALPART.fullmatch(localpart):
        raise InvalidIdentifier("a username may only contain the characters a-z, 0-9, and ._=-/+")
    return localpart


def check_room_id(room_id: str) -> str:
    """A room id: with a domain up to room version 11, from version 12 on a bare hash."""
    if ":" in room_id:
        _check_with_domain(room_id, "!", "room id")
        return room_id
    return _check_hash_id(room_id, "!", "room id")


def check_room_alias(alias: str) -> str:
    """A room alias, `#name:domain`."""
    if not _check_with_domain(alias, "#", "room alias"):
        raise InvalidIdentifier("a room alias needs a name before the colon")
    return alias


def check_event_id(event_id: str) -> str:
    """An event id: `$opaque:domain` in room versions 1 and 2, from version 3 on a bare hash."""
    if ":" in event_id:
        _check_with_domain(event_id, "$", "event id")
        return event_id
    return _check_hash_id(event_id, "$", "event id")


def check_namespaced(identifier: str) -> str:
    """A name such as `m.tz` or `org.example.mood` (spec: appendices#common-namespaced-identifier-grammar)."""
    if not _NAMESPACED.fullmatch(identifier):
        raise InvalidIdentifier("a name like this has 1 to 255 of the characters a-z, 0-9 and -._, a-z first")
    return identifier


def check_opaque_id(identifier: str) -> str:
    """An identifier that only needs to be told from others (spec: appendices#opaque-identifiers)."""
    if not _OPAQUE.fullmatch(identifier):
        raise InvalidIdentifier("an identifier is 1 to 255 of the characters 0-9, A-Z, a-z and -._~")
    return identifier


def _check_hash_id(identifier: str, sigil: str, kind: str) -> str:
    if len(identifier) > MAX_LENGTH or not identifier.startswith(sigil) or not _HASH.fullmatch(identifier, 1):
        raise InvalidIdentifier(f"{identifier[:MAX_LENGTH]!r} is not a valid {kind}")
    return identifier


def _check_with_domain(identifier: str, sigil: str, kind: str) -> str:
    """Checks all but the characters of the localpart that only some kinds refuse; returns the localpart."""
    if len(identifier) > MAX_LENGTH:
        raise InvalidIdentifier(f"a {kind} is at most 255 bytes long")
    if not identifier.isascii():
        try:
            length = len(identifier.encode())
        except UnicodeEncodeError:
            raise InvalidIdentifier(f"the {kind} holds a lone surrogate") from None
        if length > MAX_LENGTH:
            raise InvalidIdentifier(f"a {kind} is at most 255 bytes long")
    localpart, colon, domain = identifier[1:].partition(":")
    if not colon or not identifier.startswith(sigil) or "\0" in localpart:
        raise InvalidIdentifier(f"{identifier!r} is not a valid {kind}")
    check_server_name(domain)
    return localpart
