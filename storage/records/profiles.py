"""What users say of themselves, and other small things kept per user."""

from typing import Any

from storage.collection import CollectionSpec, Record


class Profile(Record, frozen=True):
    """Profile fields by name: displayname, avatar_url, m.tz, custom ones."""

    user_id: str
    fields: dict[str, Any] = {}


class StoredFilter(Record, frozen=True):
    """A /sync filter that a client uploaded, as it came; `filter_id` is its content's digest."""

    user_id: str
    filter_id: str
    body: bytes


PROFILES = CollectionSpec("profiles", Profile, ("user_id",))
FILTERS = CollectionSpec("filters", StoredFilter, ("user_id", "filter_id"))
SPECS = (PROFILES, FILTERS)
