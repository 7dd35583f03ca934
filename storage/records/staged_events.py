"""Events of other servers that wait for what they follow upon (see `federation.incoming`)."""

from storage.collection import CollectionSpec, Record


class StagedEvent(Record, frozen=True):
    """One that was acknowledged, signatures and hash checked, and is not in its room yet."""

    room_id: str
    event_id: str
    origin: str
    """Who sent it, and should have what it follows upon."""
    body: bytes
    received_ts: int


STAGED_EVENTS = CollectionSpec("staged_events", StagedEvent, ("room_id", "event_id"))

SPECS = (STAGED_EVENTS,)
