"""Bundled aggregations: what `unsigned.m.relations` says of an event (spec: client-server "Aggregations")."""

from collections.abc import Mapping, Sequence

from homeserver.rooms.room import Room
from homeserver.rooms.room_event import RoomEvent


class Bundling:
    """Finds the bundles of events that are about to be shown."""

    async def for_timeline(
        self, room: Room, events: Sequence[RoomEvent], user_id: str, ignored: frozenset[str]
    ) -> Mapping[str, bytes]:
        """Event id → JSON of its `m.relations`, for those that have any."""
        return {}

    async def for_page(self, room: Room, events: Sequence[RoomEvent], user_id: str) -> Mapping[str, bytes]:
        """The same for events of any age, read from the log."""
        return {}
