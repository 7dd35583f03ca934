"""Becoming whole: the state of a room that was joined before its members were told.

What was missing goes into the log as state that stood when the join came, and is news now. So whatever
follows upon the join, or upon what was said here since, has the state before it that it has elsewhere.
"""

import asyncio
from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from homeserver.graph.events import GraphEvents
from homeserver.graph.receiving import state_entry
from homeserver.graph.states import StateIds, States, differences
from homeserver.protocol.event_auth import is_allowed, lookup_in
from homeserver.protocol.events import Event
from homeserver.rooms.room import Room, partial_entry
from homeserver.rooms.rooms import Rooms
from homeserver.shard_writer import Appended, Drafts
from storage.log import Entry


class Learning:
    """Makes partial rooms whole."""

    def __init__(self, rooms: Rooms, events: GraphEvents, states: States) -> None:
        self._rooms = rooms
        self._events = events
        self._states = states

    async def learn(self, room: Room, join: Event, told: StateIds) -> bool:
        """Take it that `told` is the state before the join that brought the room here; all of it is known.

        False, and nothing is done, if that does not allow the join. Raises StoreError, MatrixError 503.
        """
        known = (await self._events.get_many(room, [join.event_id]))[join.event_id]
        assert known.position is not None
        below = known.position - 1
        state = await self._events.get_many(room, list(told.values()))
        if not is_allowed(join.version, join, lookup_in(each.event for each in state.values())):
            return False
        changes = [
            (type, key, state[event_id].event if event_id is not None else None)
            for type, key, event_id in differences(await self._states.at(room, below), told)
        ]
        # Of memberships from outside it was told apart from the room what that is.
        previews = [
            (*key, state[event_id].event)
            for key, event_id in told.items()
            if (current := room.head.state.get(key)) and current.preview and current.event_id == event_id
        ]
        entries = await asyncio.to_thread(_entries, room.room_id, [*changes, *previews], below)
        await self._rooms.submit(room, _Proposal(room, entries))
        return True


def _entries(room_id: str, changes: Iterable[tuple[str, str, Event | None]], below: int) -> list[Entry]:
    return [replace(state_entry(room_id, *change), pos=below) for change in changes]


class _Proposal:
    """The entries by which a room becomes whole, unless it is."""

    def __init__(self, room: Room, entries: Sequence[Entry]) -> None:
        self._room = room
        self._entries = entries

    def build(self, drafts: Drafts, next_seq: int) -> list[Appended]:
        room = self._room
        if room.partial is None:
            return []
        whole = partial_entry(room.room_id, None)
        return [Appended(replace(entry, seq=next_seq + n)) for n, entry in enumerate((*self._entries, whole))]

    def result(self) -> None:
        return None

    def duplicate(self, existing: Entry) -> None:
        return None
