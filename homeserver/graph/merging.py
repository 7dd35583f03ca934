"""Keeping the forward extremities of rooms few.

Who sends an event joins the ends that its server knows of. Where servers send side by side and nobody here
says anything, ends pile up, and each event that comes has to be resolved against all of them. So this server
says something then, in the name of one of its users, that clients have nothing to show of.
"""

from collections.abc import Sequence

import structlog

from homeserver.errors import MatrixError
from homeserver.protocol.identifiers import server_name_of
from homeserver.rooms.authoring import Author, Decide, EventTemplate
from homeserver.rooms.posting import post
from homeserver.rooms.room import Room, RoomHead
from homeserver.rooms.rooms import Rooms

log = structlog.get_logger(__name__)

MOST = 10
"""Ends that a room may have."""
TYPE = "org.matrix.dummy_event"
"""What other servers call such an event, and know not to show."""
TRIED = 5
"""Members whose power may not suffice."""


class Merging:
    """Joins the ends of rooms."""

    def __init__(self, rooms: Rooms, author: Author) -> None:
        self._rooms = rooms
        self._author = author

    async def merge(self, room: Room) -> None:
        """Join the ends of a room that has too many, if a member here may."""
        if len(room.head.tips) <= MOST:
            return
        name = self._author.server_name
        members = (user_id for user_id in sorted(room.joined) if server_name_of(user_id) == name)
        for _, user_id in zip(range(TRIED), members, strict=False):
            try:
                while len(room.head.tips) > MOST:
                    await post(self._rooms, self._author, room, _joining(user_id))
                return
            except MatrixError as error:
                log.info("ends are not joined", room_id=room.room_id, error=error.error)


def _joining(user_id: str) -> Decide:
    def decide(head: RoomHead) -> Sequence[EventTemplate]:
        return [EventTemplate(TYPE, user_id, {})] if len(head.tips) > MOST else []

    return decide
