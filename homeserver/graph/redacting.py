"""What a redaction is about, among events that are known, and whether it does anything to it.

spec: rooms/v3#handling-redactions
"""

from collections.abc import Mapping

from homeserver.graph.events import KnownEvent
from homeserver.protocol.events import Event, load_event
from homeserver.protocol.redaction import redact
from homeserver.protocol.state_resolution import StateKey
from homeserver.rooms.redaction import takes_effect
from homeserver.rooms.room import CREATE, RoomHead


def redacted_by(event: Event, known: Mapping[str, KnownEvent]) -> Event | None:
    """What a redaction is to redact, if that is known. State redacts nothing."""
    redacted = known.get(event.redacts) if event.redacts is not None and not event.is_state else None
    return redacted.event if redacted is not None else None


def redacted_event(event: Event) -> Event:
    """What its redaction leaves of an event."""
    return load_event(event.version, redact(event.version, event.pdu), event.event_id)


def redacts_key(redacted: Event | None) -> StateKey | None:
    """The state key of what is redacted, if it is state."""
    return redacted.state_tuple if redacted is not None and redacted.is_state else None


def is_vain(redaction: Event, redacted: Event | None, head: RoomHead) -> bool:
    """Whether a redaction upon `head` leaves what it names, and is known, as it is.

    Clients must not see it: they would take the event out of what they show.
    """
    if redacted is None:
        return False
    return redacted.type == CREATE[0] or not takes_effect(
        redaction.version, head.lookup, redaction.sender, redacted.sender
    )
