"""What is kept of rooms beside the log: aliases, the public directory, reports."""

from storage.collection import CollectionSpec, Index, Record


class RoomAlias(Record, frozen=True):
    """A local alias of a room."""

    alias: str
    room_id: str
    creator: str
    claimed_ts: int = 0
    """When it was taken, if that was before the room was there."""


class PublishedRoom(Record, frozen=True):
    """A room in the public directory. Follows the room, so a listing loads no rooms."""

    room_id: str
    members: int = 0
    name: str | None = None
    topic: str | None = None
    avatar_url: str | None = None
    canonical_alias: str | None = None
    join_rule: str | None = None
    room_type: str | None = None
    world_readable: bool = False
    guest_can_join: bool = False


class Report(Record, frozen=True):
    """Somebody reported an event, a room or a user; `subject` is its id, `room_id` "" for a user."""

    report_id: str
    ts: int
    reporter: str
    room_id: str
    subject: str
    reason: str = ""


ALIASES = CollectionSpec("aliases", RoomAlias, ("alias",), (Index("by_room", ("room_id",)),))
PUBLISHED = CollectionSpec(
    "published_rooms", PublishedRoom, ("room_id",), (Index("by_members", ("members",)),)
)
REPORTS = CollectionSpec(
    "reports", Report, ("report_id",), (Index("by_time", ("ts",)), Index("by_reporter", ("reporter", "ts")))
)

SPECS = (ALIASES, PUBLISHED, REPORTS)
