"""Redactions that come before what they redact: from servers events arrive in any order.

Only those that come into the room are remembered. One that its rules refuse, or that is soft-failed, would
otherwise redact all the same, without anybody having been asked.
"""

from collections.abc import Container

from homeserver.protocol.events import Event
from homeserver.rooms.redaction import takes_effect
from homeserver.rooms.room import RoomHead
from storage.collection import Collection
from storage.records.side_events import EarlyRedaction


def is_early_redaction(event: Event, known: Container[str]) -> bool:
    """Whether it redacts an event that is not among the known."""
    return event.redacts is not None and event.redacts not in known


class EarlyRedactions:
    """Remembers them until it comes."""

    def __init__(self, stored: Collection[EarlyRedaction]) -> None:
        self._stored = stored

    async def note(self, redaction: Event) -> None:
        """Remember one that is about to come into the room. Raises StoreError."""
        assert redaction.redacts is not None
        await self._stored.put(
            EarlyRedaction(
                room_id=redaction.room_id,
                event_id=redaction.redacts,
                redaction_id=redaction.event_id,
                redactor=redaction.sender,
            )
        )

    async def of(self, event: Event, head: RoomHead) -> str | None:
        """The redaction that an event is to be redacted by at once. Raises StoreError."""
        early = await self._stored.get(event.room_id, event.event_id)
        if early is None or not takes_effect(event.version, head.lookup, early.redactor, event.sender):
            return None
        return early.redaction_id
