"""The since-token: how far a client has seen each sequence (spec: client-server "Syncing").

Opaque to clients, versioned, valid at any replica: `s1_EPOCH_USER_EPHEMERAL_ROOM[.ROOM…]` in base 36.
Positions in one room (pagination) have a token of their own, `p` + position. So has the position in a user's
log up to which a device has its messages (sliding sync), `d1_EPOCH_USER`.
"""

from functools import lru_cache
from typing import NamedTuple

from homeserver.errors import invalid_param
from storage.store import is_epoch

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_MAX_LENGTH = 16 * 1024
"""Of a store with 1,024 room shards and billions of entries in each, a token has half of it."""
_MAX_POSITION = 1 << 53
_REMEMBERED = 4096
"""Tokens: those who are told of the same events hold and are given the same ones."""


class SyncToken(NamedTuple):
    """Position in the user's own shard, in the ephemeral sequence, and in each room shard."""

    user: int
    ephemeral: int
    rooms: tuple[int, ...]

    def encode(self, epoch: str) -> str:
        return _encoded(self, epoch)


@lru_cache(_REMEMBERED)
def _encoded(token: SyncToken, epoch: str) -> str:
    rooms = ".".join(base36(position) for position in token.rooms)
    return f"s1_{epoch}_{base36(token.user)}_{base36(token.ephemeral)}_{rooms}"


@lru_cache(_REMEMBERED)
def decode_sync_token(token: str, epoch: str, room_shards: int) -> SyncToken:
    """Raises 400 M_INVALID_PARAM for a token that this store did not give out."""
    if len(token) > _MAX_LENGTH:
        raise invalid_param("Invalid since token")
    parts = token.split("_")
    if len(parts) != 5 or parts[0] != "s1" or parts[1] != epoch:
        raise invalid_param("Invalid since token")
    rooms = tuple(from_base36(part) for part in parts[4].split("."))
    if len(rooms) != room_shards:
        raise invalid_param("Invalid since token")
    return SyncToken(from_base36(parts[2]), from_base36(parts[3]), rooms)


@lru_cache(_REMEMBERED)
def decode_since(token: str, epoch: str, room_shards: int) -> SyncToken:
    """A since-token; one of another epoch means the beginning.

    It was given out before the store was restored from a backup. All that there is now goes to that client as
    news, since nobody can tell what it has seen of it. Raises 400 M_INVALID_PARAM.
    """
    other = token[len("s1_") :].partition("_")[0]
    if token.startswith("s1_") and other != epoch and is_epoch(other):
        return SyncToken(0, 0, (0,) * room_shards)
    return decode_sync_token(token, epoch, room_shards)


def encode_received(position: int, epoch: str) -> str:
    """Up to where in a user's log a device has its messages, for a client that says so by itself."""
    return f"d1_{epoch}_{base36(position)}"


def decode_received(token: str, epoch: str) -> int:
    """The position; of another epoch (see `decode_since`), or of a release that named none, the beginning.

    Raises 400 M_INVALID_PARAM.
    """
    if token.isascii() and token.isdigit():
        return 0
    kind, _, rest = token.partition("_")
    given, _, position = rest.partition("_")
    if kind != "d1" or not is_epoch(given):
        raise invalid_param("to_device.since: not a token of this server")
    return from_base36(position) if given == epoch else 0


def encode_position(position: int) -> str:
    """A pagination token: the boundary just above `position`."""
    return f"p{position}"


def decode_position(token: str, shard: int, epoch: str, room_shards: int) -> int:
    """The boundary a pagination token means; a since-token means its position in the room's shard.

    Raises 400 M_INVALID_PARAM.
    """
    if token.startswith("s1_"):
        return decode_sync_token(token, epoch, room_shards).rooms[shard]
    digits = token[2:] if token.startswith("p-") else token[1:]
    if not token.startswith("p") or not digits.isascii() or not digits.isdigit() or len(digits) > 18:
        raise invalid_param("Invalid pagination token")
    return int(token[1:])


def base36(number: int) -> str:
    if number < 36:
        return _DIGITS[number]
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = _DIGITS[digit] + digits
    return digits


def from_base36(text: str) -> int:
    if not text.isascii() or not text.isalnum() or text != text.lower() or len(text) > 12:
        raise invalid_param("Invalid since token")
    number = int(text, 36)
    if number > _MAX_POSITION:
        raise invalid_param("Invalid since token")
    return number
