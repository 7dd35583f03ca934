"""What clients of sliding sync have been sent (see `homeserver.sync.sliding.connection`)."""

import msgspec

from storage.collection import CollectionSpec, Record


class SentRoom(msgspec.Struct, frozen=True, array_like=True):
    """What a client has of a room, and by which wishes it got it."""

    timeline_limit: int
    state: str
    """Stands for the wanted state (`StatePatterns.signature`)."""
    upto: int | None = None
    """The number in the room's shard up to which the client has it; None: as far as the answer goes."""
    live: bool = True
    """Invites and knocks are sent once, not followed."""
    direct: bool = False
    """Whether the client takes it for a direct chat."""


class SentRooms(msgspec.Struct, frozen=True):
    """The rooms that a client has, and the lengths of its lists."""

    rooms: dict[str, SentRoom]
    lists: dict[str, int]


class SlidingConnection(Record, frozen=True):
    """What a client had at the last two changes of it, by the names that its positions carry."""

    user_id: str
    device_id: str
    conn_id: str
    begun_ts: int
    sent: dict[str, SentRooms]


SLIDING_CONNECTIONS = CollectionSpec(
    "sliding_connections", SlidingConnection, ("user_id", "device_id", "conn_id")
)

SPECS = (SLIDING_CONNECTIONS,)
