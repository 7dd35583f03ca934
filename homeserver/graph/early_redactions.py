"""Redactions that come before what they redact: from servers events arrive in any order."""

from collections.abc import Container, Iterable

from homeserver.protocol.events import Event
from homeserver.rooms.redaction import takes_effect
from homeserver.rooms.room import RoomHead
from storage.collection import Collection
from storage.records.side_events import EarlyRedaction


class EarlyRedactions:
    """Remembers them until it comes."""

    def __init__(self, stored: Collection[EarlyRedaction]) -> None:
        self._stored = stored

    async def note(self, events: Iterable[Event], known: Container[str]) -> None:
        """Remember those of the events that redact one that is not among the known. Raises StoreError."""
        early = [
            EarlyRedaction(
                room_id=event.room_id,
                event_id=event.redacts,
                redaction_id=event.event_id,
                redactor=event.sender,
            )
            for event in events
            if event.type == "m.room.redaction" and event.redacts is not None and event.redacts not in known
        ]
        if early:
            await self._stored.put_many(early)

    async def of(self, event: Event, head: RoomHead) -> str | None:
        """The redaction that an event is to be redacted by at once. Raises StoreError."""
        early = await self._stored.get(event.room_id, event.event_id)
        if early is None or not takes_effect(event.version, head.lookup, early.redactor, event.sender):
            return None
        return early.redaction_id
