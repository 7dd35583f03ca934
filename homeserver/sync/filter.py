"""The filter of a whole /sync (spec: client-server "Filtering"); of single events: rooms/event_filter."""

from collections.abc import Sequence
from typing import Literal

import msgspec

from homeserver.rooms.event_filter import EventFilter, RoomEventFilter, RoomIdText


class RoomFilter(msgspec.Struct, frozen=True):
    rooms: Sequence[RoomIdText] | None = None
    not_rooms: Sequence[RoomIdText] = ()
    include_leave: bool = False
    timeline: RoomEventFilter = RoomEventFilter()
    state: RoomEventFilter = RoomEventFilter()
    ephemeral: RoomEventFilter = RoomEventFilter()
    account_data: RoomEventFilter = RoomEventFilter()

    def allows_room(self, room_id: str) -> bool:
        return room_id not in self.not_rooms and (self.rooms is None or room_id in self.rooms)


class Filter(msgspec.Struct, frozen=True):
    """A whole /sync filter."""

    event_fields: Sequence[str] | None = None
    """Read, so that what is ill-typed is refused, and not used: a server may send more fields than these."""
    event_format: Literal["client", "federation"] = "client"
    presence: EventFilter = EventFilter()
    account_data: EventFilter = EventFilter()
    room: RoomFilter = RoomFilter()


EVERYTHING = Filter()
