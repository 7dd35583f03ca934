"""Events that wait to be sent (see `homeserver.rooms.delayed_events`)."""

from storage.collection import CollectionSpec, Index, Record


class DelayedEvent(Record, frozen=True):
    """One that is to be sent at `due`; when it has ended there is `ended_ts` instead."""

    delay_id: str
    shard: int
    """Of its room; whose owner sends it."""
    user_id: str
    room_id: str
    type: str
    content: bytes
    delay: int
    """Milliseconds from `since`."""
    since: int
    """When it was scheduled, or when the delay was last begun anew."""
    due: int | None = None
    state_key: str | None = None
    ts: int | None = None
    """origin_server_ts that it is to have, where that is the client's to say."""
    replaces: str | None = None
    """The event that stood under its type and state key when it was scheduled."""
    sending: bool = False
    """Somebody is about to send it: nothing else can be done with it any more."""
    ended_ts: int | None = None
    event_id: str | None = None
    """What it became; an event that ended without was cancelled, or there is an `error`."""
    error: dict[str, str] | None = None


DELAYED_EVENTS = CollectionSpec(
    "delayed_events",
    DelayedEvent,
    ("delay_id",),
    (
        Index("by_due", ("shard", "due")),
        Index("by_user", ("user_id", "due")),
        Index("ended_of_user", ("user_id", "ended_ts")),
        Index("by_end", ("ended_ts",)),
    ),
)

SPECS = (DELAYED_EVENTS,)
