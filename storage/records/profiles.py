"""What users say of themselves, and other small things kept per user."""

from typing import Any

from storage.collection import CollectionSpec, Index, Record


class Profile(Record, frozen=True):
    """Profile fields by name: displayname, avatar_url, m.tz, custom ones."""

    user_id: str
    fields: dict[str, Any] = {}


class StoredFilter(Record, frozen=True):
    """A /sync filter that a client uploaded, as it came; `filter_id` is its content's digest."""

    user_id: str
    filter_id: str
    body: bytes


class RoomAlias(Record, frozen=True):
    """A local alias of a room."""

    alias: str
    room_id: str
    creator: str


class PublishedRoom(Record, frozen=True):
    """A room in the public directory. `members` orders it; refreshed as the room changes."""

    room_id: str
    listed: int = 1
    members: int = 0


PROFILES = CollectionSpec("profiles", Profile, ("user_id",))
FILTERS = CollectionSpec("filters", StoredFilter, ("user_id", "filter_id"))
ALIASES = CollectionSpec("aliases", RoomAlias, ("alias",), (Index("by_room", ("room_id",)),))
PUBLISHED = CollectionSpec(
    "published_rooms", PublishedRoom, ("room_id",), (Index("by_members", ("listed", "members")),)
)

SPECS = (PROFILES, FILTERS, ALIASES, PUBLISHED)
