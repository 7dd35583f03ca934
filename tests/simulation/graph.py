"""A room as all servers together have it, worked out from its first event on."""

from collections.abc import Mapping, Sequence

from homeserver.protocol.event_auth import is_allowed
from homeserver.protocol.events import Event
from homeserver.protocol.room_versions import RoomVersion
from homeserver.protocol.state_resolution import resolve

State = Mapping[tuple[str, str], str]


class Graph:
    """The state before and after each of some events, none of which lacks what it follows upon."""

    def __init__(self, version: RoomVersion, events: Mapping[str, Event]) -> None:
        self.version = version
        self.events = events
        self.before: dict[str, State] = {}
        self.after: dict[str, State] = {}
        # Honest servers give an event a greater depth than what it follows upon.
        for event in sorted(events.values(), key=lambda event: event.depth):
            before = self.before[event.event_id] = self.resolved(event.prev_events)
            added = {event.state_tuple: event.event_id} if event.is_state else {}
            self.after[event.event_id] = {**before, **added}

    def resolved(self, event_ids: Sequence[str]) -> State:
        """The state after events."""
        states = [self.after[event_id] for event_id in event_ids]
        return resolve(self.version, states, self.events)

    def allows(self, event: Event) -> bool:
        """Whether the state before an event does."""
        before = self.before[event.event_id]
        return is_allowed(event.version, event, lambda t, k: self.events.get(before.get((t, k), "")))

    def following(self, event_id: str) -> set[str]:
        """An event, and those that follow upon it."""
        found = {event_id}
        for event in sorted(self.events.values(), key=lambda event: event.depth):
            if not found.isdisjoint(event.prev_events):
                found.add(event.event_id)
        return found
