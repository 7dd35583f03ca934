"""What lists of rooms ask of a room that is not in memory any more."""

from typing import NamedTuple

from homeserver.rooms.room import Activity, Room


class Outline(NamedTuple):
    """Of a room as it was when it was put out of memory, and is as long as nothing happens in it.

    The fields are those of `Room` under the same names.
    """

    room_id: str
    shard: int
    last_seq: int
    bumped: Activity
    is_encrypted: bool
    room_type: object
    name: object


def outline_of(room: Room) -> Outline:
    return Outline(
        room.room_id,
        room.shard,
        room.last_seq,
        room.bumped,
        room.is_encrypted,
        room.room_type,
        room.name,
    )
