"""Other servers as those to whom things are sent (see `federation.sender`)."""

from storage.collection import CollectionSpec, Index, Record


class Destination(Record, frozen=True):
    """A server that does not answer, or did not lately."""

    server_name: str
    failing_since: int
    """When it failed first (ms); 0: it answers."""
    retry_at: int
    pause: int
    """How long it is left alone this time, without jitter (ms)."""


class Behind(Record, frozen=True):
    """A server has been sent all that concerns it in a shard up to `seq`, and not all that came later."""

    shard: int
    server_name: str
    seq: int


class ServerRoom(Record, frozen=True):
    """A server has users in a room."""

    server_name: str
    room_id: str


class Departure(Record, frozen=True):
    """A server was put out of a room by the entry `seq` of a shard, and may not have heard of it."""

    server_name: str
    shard: int
    room_id: str
    seq: int
    expires_ts: int


DESTINATIONS = CollectionSpec("destinations", Destination, ("server_name",))
BEHIND = CollectionSpec("behind", Behind, ("shard", "server_name"))
SERVER_ROOMS = CollectionSpec("server_rooms", ServerRoom, ("server_name", "room_id"))
DEPARTURES = CollectionSpec(
    "departures",
    Departure,
    ("server_name", "shard", "room_id", "seq"),
    (Index("by_expiry", ("expires_ts",)),),
)

SPECS = (DESTINATIONS, BEHIND, SERVER_ROOMS, DEPARTURES)
