"""What outlives a restart of people's presence."""

from storage.collection import CollectionSpec, Index, Record


class StoredPresence(Record, frozen=True):
    """A user's status message, and when they were last active (ms); written now and then."""

    user_id: str
    last_active: int = 0
    status_msg: str | None = None
    online: int | None = None
    """1 unless the user was offline; None keeps the others out of the index."""


PRESENCE = CollectionSpec(
    "presence", StoredPresence, ("user_id",), (Index("by_online", ("online", "user_id")),)
)

SPECS = (PRESENCE,)
