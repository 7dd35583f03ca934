"""Events that are known for what they say alone: parts of auth chains, and of states that others told.

They are checked by the events that authorise them, and by nothing else.
"""

import asyncio
from collections.abc import Mapping, Sequence

from homeserver.graph.events import GraphEvents, KnownEvent
from homeserver.protocol.event_auth import (
    AuthError,
    check_auth_events,
    create_event_id,
    is_allowed,
    lookup_in,
)
from homeserver.protocol.events import Event
from homeserver.protocol.signing import encode_event
from homeserver.rooms.room import CREATE, Room
from storage.collection import Collection
from storage.records.side_events import OUTLIER, REJECTED, SideEvent

WRITTEN_AT_ONCE = 500


class Outliers:
    """Takes them in."""

    def __init__(self, events: GraphEvents, side_events: Collection[SideEvent]) -> None:
        self._events = events
        self._side = side_events

    async def add(self, room: Room, events: Sequence[Event]) -> dict[str, KnownEvent]:
        """Keep those events whose auth events are known, be they among them; as what they are known now.

        All have come through the gate. What is known already stays what it is. Raises StoreError.
        """
        new = {event.event_id: event for event in events}
        named = {auth_id for event in events for auth_id in auth_ids(event)}
        known = await self._events.get_many(room, {*new, *named})
        new = {event_id: event for event_id, event in new.items() if event_id not in known}
        found = await asyncio.to_thread(standings, room, new, known)
        records = [side_event(new[event_id], standing) for event_id, standing in found.items()]
        for first in range(0, len(records), WRITTEN_AT_ONCE):
            await self._side.put_many(records[first : first + WRITTEN_AT_ONCE])
        added = {each: KnownEvent(new[each], None, standing=standing) for each, standing in found.items()}
        return {**known, **added}


def standings(room: Room, new: Mapping[str, Event], known: Mapping[str, KnownEvent]) -> dict[str, str]:
    """As what each of some events is known from now on: OUTLIER or REJECTED, those first that others rest on.

    Events that rest on what is neither new nor known are left out, and so are those that rest on themselves.
    """
    there = dict(known)
    found: dict[str, str] = {}
    waiting = [list(new)]
    entered: set[str] = set()
    while waiting:
        if not waiting[-1]:
            waiting.pop()
            continue
        event_id = waiting[-1][-1]
        event = new[event_id]
        if event_id not in entered:
            entered.add(event_id)
            waiting.append([each for each in auth_ids(event) if each in new and each not in entered])
            continue
        waiting[-1].pop()
        named = auth_ids(event)
        if event_id in found or not all(each in there for each in named):
            continue
        refused = creates_again(room, event) or refused_by_auth_events(event, [there[each] for each in named])
        found[event_id] = standing = REJECTED if refused else OUTLIER
        there[event_id] = KnownEvent(event, None, standing=standing)
    return found


def side_event(event: Event, standing: str) -> SideEvent:
    """An event beside the log, of which the state before it is not known."""
    body = encode_event(event.version, event.pdu)
    return SideEvent(room_id=event.room_id, event_id=event.event_id, body=body, standing=standing)


def auth_ids(event: Event) -> Sequence[str]:
    """What authorises an event: its auth events, and the create event where that is not among them."""
    if event.version.room_id_is_create_hash and event.type != "m.room.create":
        return (*event.auth_events, create_event_id(event.room_id))
    return event.auth_events


def creates_again(room: Room, event: Event) -> bool:
    """Whether an event would be another beginning of a room than it has.

    As far as the auth rules go, the server that a room's id names may sign one at any time, where that id is
    not the hash of the first one.
    """
    create = room.head.state.get(CREATE)
    return event.type == "m.room.create" and create is not None and event.event_id != create.event_id


def refused_by_auth_events(event: Event, auth_events: Sequence[KnownEvent]) -> bool:
    """Whether an event is to be rejected by what authorises it alone, `auth_ids` in order."""
    rejected = [known.event.event_id for known in auth_events if known.is_rejected]
    named = [known.event for known in auth_events if known.event.event_id in event.auth_events]
    try:
        check_auth_events(event.version, event, named, rejected=rejected)
    except AuthError:
        return True
    return not is_allowed(event.version, event, lookup_in(known.event for known in auth_events))
