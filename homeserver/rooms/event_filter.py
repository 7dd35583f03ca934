"""Filters of events by type, sender, room and content (spec: client-server "Filtering").

The structs are the request's own shape; `EventFilter.matches` is what readers ask. Type patterns have
`*` as their only wildcard, matched in linear time.
"""

from collections.abc import Sequence
from typing import Annotated, TypeVar

import msgspec

from homeserver.errors import MatrixError, bad_json
from homeserver.protocol.globs import compile_glob
from homeserver.rooms.room_event import RoomEvent

UserIdText = Annotated[str, msgspec.Meta(pattern="^@")]
RoomIdText = Annotated[str, msgspec.Meta(pattern="^!")]


F = TypeVar("F")


def read_filter(decoder: msgspec.json.Decoder[F], text: bytes | str) -> F:
    """A filter as a client wrote it. Raises 400 M_BAD_JSON, M_NOT_JSON."""
    try:
        return decoder.decode(text)
    except msgspec.ValidationError as error:
        raise bad_json(f"filter: {error}") from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise MatrixError(400, "M_NOT_JSON", "filter: not JSON") from error


class EventFilter(msgspec.Struct, frozen=True):
    """Filter of presence and global account data."""

    limit: int | None = None
    types: Sequence[str] | None = None
    not_types: Sequence[str] = ()
    senders: Sequence[UserIdText] | None = None
    not_senders: Sequence[UserIdText] = ()

    def matches(self, type: str, sender: str | None = None) -> bool:
        if self.types is not None and not any(_type_matches(pattern, type) for pattern in self.types):
            return False
        if any(_type_matches(pattern, type) for pattern in self.not_types):
            return False
        if sender is None:
            return True
        return sender not in self.not_senders and (self.senders is None or sender in self.senders)


class RoomEventFilter(EventFilter, frozen=True):
    """Filter of a room's timeline, state, ephemeral events or account data."""

    rooms: Sequence[RoomIdText] | None = None
    not_rooms: Sequence[RoomIdText] = ()
    contains_url: bool | None = None
    lazy_load_members: bool = False
    include_redundant_members: bool = False
    unread_thread_notifications: bool = False

    def allows_room(self, room_id: str) -> bool:
        return room_id not in self.not_rooms and (self.rooms is None or room_id in self.rooms)

    @property
    def is_open(self) -> bool:
        """Lets every event through."""
        return (
            self.types is None
            and not self.not_types
            and self.senders is None
            and not self.not_senders
            and self.contains_url is None
        )

    def matches_event(self, event: RoomEvent) -> bool:
        if not self.matches(event.type, event.sender):
            return False
        if self.contains_url is not None:
            return isinstance(event.content.get("url"), str) == self.contains_url
        return True


def _type_matches(pattern: str, type: str) -> bool:
    if "*" not in pattern:
        return pattern == type
    return compile_glob(pattern)(type)
