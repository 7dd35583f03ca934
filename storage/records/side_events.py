"""Events that this server knows without a place in their room's timeline (see `homeserver.graph`)."""

from storage.collection import CollectionSpec, Index, Record

OUTLIER = "outlier"
"""Known for what it says alone: part of an auth chain, or of the state that a room was joined with."""
REJECTED = "rejected"
"""The auth rules refuse it."""
SOFT_FAILED = "soft_failed"
"""They allow it where it stands in the graph, but not now; or it is a redaction that redacts nothing."""


class SideEvent(Record, frozen=True):
    """One such event, as it was signed."""

    room_id: str
    event_id: str
    body: bytes
    standing: str = OUTLIER
    base: int = 0
    """With `delta`, the state before it, as an event's meta has it; of outliers that is not known."""
    delta: tuple[tuple[str, str, str | None], ...] = ()


class Gap(Record, frozen=True):
    """An event that others follow upon, and that could not be had."""

    room_id: str
    event_id: str


class EarlyRedaction(Record, frozen=True):
    """A redaction of an event that was not there when it came."""

    room_id: str
    event_id: str
    """What it redacts."""
    redaction_id: str
    redactor: str


SIDE_EVENTS = CollectionSpec(
    "side_events", SideEvent, ("room_id", "event_id"), (Index("by_event", ("event_id",)),)
)
GAPS = CollectionSpec("gaps", Gap, ("room_id", "event_id"))
EARLY_REDACTIONS = CollectionSpec("early_redactions", EarlyRedaction, ("room_id", "event_id"))

SPECS = (SIDE_EVENTS, GAPS, EARLY_REDACTIONS)
