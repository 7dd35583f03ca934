"""State resolution: one room state out of several that conflict (spec: rooms/v1, rooms/v2, rooms/v12).

Give `resolve` the states after each of an event's `prev_events` and a way to get at events; the answer
depends on nothing else, not on the order in which states or events came, so all servers reach it.

A walk over auth chains visits each event once per state set at most, nothing recurses, and what all
states agree on is not looked into unless the outcome hangs on it: the work grows with what conflicts and
with its auth chains, not with the room.

Two words of the specification are read as the servers out there read them, since differing from them is
what splits a room: the full auth chain of a state contains the events of that state themselves, and a
power event pulls in those events of the full conflicted set that it reaches through events of that set.
"""

import hashlib
import heapq
import math
from collections import ChainMap, Counter
from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence

from homeserver.protocol.event_auth import (
    StateLookup,
    create_event_id,
    is_allowed,
)
from homeserver.protocol.events import Event
from homeserver.protocol.power_levels import PowerLevels
from homeserver.protocol.room_versions import RoomVersion, StateResolution

StateKey = tuple[str, str]
"""Type and state key."""

StateMap = Mapping[StateKey, str]
"""A room state: key → event id."""

EventSource = Mapping[str, Event] | Callable[[str], Event | None]
"""Where events come from, by id. Those that it does not have take no part."""

_POWER_LEVELS = ("m.room.power_levels", "")
_JOIN_RULES = ("m.room.join_rules", "")
_CREATE = ("m.room.create", "")


def resolve(
    version: RoomVersion,
    state_sets: Sequence[StateMap],
    events: EventSource,
    *,
    rejected: Container[str] = (),
) -> dict[StateKey, str]:
    """The state that these states resolve to.

    `rejected` has the ids of rejected events: these are not used to authorise others.
    """
    if not state_sets:
        return {}
    room = _Room(version, events, rejected)
    if version.state_resolution is StateResolution.V1:
        return _resolve_v1(room, state_sets)
    unconflicted, conflicted = _separate(state_sets)
    if not conflicted:
        return unconflicted
    return _resolve_v2(room, state_sets, unconflicted, conflicted)


class _Room:
    """The events of one resolution, each fetched once."""

    def __init__(self, version: RoomVersion, events: EventSource, rejected: Container[str]) -> None:
        self.version = version
        self.rejected = rejected
        self._fetch = events.get if isinstance(events, Mapping) else events
        self._known: dict[str, Event | None] = {}

    def get(self, event_id: str) -> Event | None:
        try:
            return self._known[event_id]
        except KeyError:
            event = self._known[event_id] = self._fetch(event_id)
            return event

    def existing(self, event_ids: Iterable[str]) -> list[Event]:
        """Those of the events that are there and are state events."""
        found = (self.get(event_id) for event_id in event_ids)
        return [event for event in found if event is not None and event.state_key is not None]

    def auth_ids(self, event_id: str) -> tuple[str, ...]:
        event = self.get(event_id)
        return () if event is None else event.auth_events

    def power_levels_of(self, event: Event) -> Event | None:
        """The power levels event among an event's auth events."""
        for auth_event in self.existing(event.auth_events):
            if auth_event.state_tuple == _POWER_LEVELS:
                return auth_event
        return None

    def sender_level(self, event: Event) -> int:
        """The power of an event's sender, going by its own auth events."""
        create = None
        if self.version.room_id_is_create_hash:
            create = self.get(create_event_id(event.room_id))
        else:
            for auth_event in self.existing(event.auth_events):
                if auth_event.state_tuple == _CREATE:
                    create = auth_event
        if create is None:
            return 0
        power_levels = self.power_levels_of(event)
        content = None if power_levels is None else power_levels.content
        return PowerLevels(self.version, content, create).user_level(event.sender)


# --- version 2 and 2.1 ------------------------------------------------------------------------------


def _separate(state_sets: Sequence[StateMap]) -> tuple[dict[StateKey, str], dict[StateKey, set[str]]]:
    """The unconflicted state map, and key → ids of the conflicted state set."""
    first, *others = state_sets
    unconflicted = dict(set(first.items()).intersection(*(state.items() for state in others)))
    conflicted: dict[StateKey, set[str]] = {}
    for state in state_sets:
        for key, event_id in state.items():
            if key not in unconflicted:
                conflicted.setdefault(key, set()).add(event_id)
    return unconflicted, conflicted


def _resolve_v2(
    room: _Room,
    state_sets: Sequence[StateMap],
    unconflicted: dict[StateKey, str],
    conflicted: dict[StateKey, set[str]],
) -> dict[StateKey, str]:
    conflicted_ids = set().union(*conflicted.values())
    full = conflicted_ids | _auth_difference(room, state_sets, unconflicted, conflicted)
    # The conflicted state subgraph, and from which state the checks start, came with version 2.1.
    start: StateMap = unconflicted
    if room.version.state_resolution is StateResolution.V2_1:
        full |= _conflicted_subgraph(room, conflicted_ids)
        start = {}
    full_conflicted = {event.event_id: event for event in room.existing(full)}

    # 1. Select the set X of all power events that appear in the full conflicted set. For each such power
    # event P, enlarge X by adding the events in the auth chain of P which also belong to the full
    # conflicted set. Sort X into a list using the reverse topological power ordering.
    power_events = [event_id for event_id, event in full_conflicted.items() if _is_power_event(event)]
    chosen = _reachable(power_events, lambda event_id: _within(room.auth_ids(event_id), full_conflicted))
    # 2. Apply the iterative auth checks algorithm, starting from the unconflicted state map (2.1: from an
    # empty state map), to the list of events from the previous step.
    resolved: dict[StateKey, str] = {}
    _iterative_auth_checks(room, _power_order(room, chosen, full_conflicted), resolved, start)
    # 3. Take all remaining events that weren't picked in step 1 and order them by the mainline ordering
    # based on the power level in the partially resolved state obtained in step 2.
    remaining = [event for event_id, event in full_conflicted.items() if event_id not in chosen]
    power_levels = resolved.get(_POWER_LEVELS) or start.get(_POWER_LEVELS)
    # 4. Apply the iterative auth checks algorithm on the partial resolved state and the list of events
    # from the previous step.
    _iterative_auth_checks(room, _mainline_order(room, remaining, power_levels), resolved, start)
    # 5. Update the result by replacing any event with the event with the same key from the unconflicted
    # state map, if such an event exists, to get the final resolved state.
    return {**resolved, **unconflicted}


def _is_power_event(event: Event) -> bool:
    if event.state_tuple in (_POWER_LEVELS, _JOIN_RULES):
        return True
    return (
        event.type == "m.room.member"
        and event.content.get("membership") in ("leave", "ban")
        and event.sender != event.state_key
    )


def _within(event_ids: Iterable[str], members: Container[str]) -> list[str]:
    return [event_id for event_id in event_ids if event_id in members]


def _reachable(
    start: Iterable[str], edges: Callable[[str], Iterable[str]], seen: set[str] | None = None
) -> set[str]:
    """All that can be reached from `start`, itself included, but not through what was `seen` before.

    Adds to `seen` what it finds.
    """
    seen = set() if seen is None else seen
    found = set(start)
    seen |= found
    todo = list(found)
    while todo:
        for event_id in edges(todo.pop()):
            if event_id not in seen:
                seen.add(event_id)
                found.add(event_id)
                todo.append(event_id)
    return found


def _auth_difference(
    room: _Room,
    state_sets: Sequence[StateMap],
    unconflicted: Mapping[StateKey, str],
    conflicted: Mapping[StateKey, set[str]],
) -> set[str]:
    """The events that are in the full auth chain of some, but not all of the states.

    What the states agree on is in all their chains, with all that it rests on. So only the chains of
    what is conflicted are walked, as far as agreed events; of the few events found in some of them only,
    those are left out that agreed events rest on.
    """
    agreed = set(unconflicted.values())
    counts: Counter[str] = Counter()
    for state in state_sets:
        own = {state[key] for key in conflicted if key in state}
        counts.update(
            _reachable(own, lambda event_id: [i for i in room.auth_ids(event_id) if i not in agreed])
        )
    candidates = {event_id for event_id, count in counts.items() if count < len(state_sets)}
    unsure = candidates - set().union(*conflicted.values())
    # An event is mostly authorised by what stood in its place before: first look where that leads.
    likely = [unconflicted.get(event.state_tuple) for event in room.existing(unsure)]
    seen: set[str] = set()
    for first in (*likely, *unconflicted.values()):
        if not unsure:
            break
        if first is not None and first not in seen:
            found = _reachable([first], room.auth_ids, seen)
            unsure -= found
            candidates -= found
    return candidates


def _conflicted_subgraph(room: _Room, conflicted_ids: Collection[str]) -> set[str]:
    """All events on paths of auth events between conflicted ones: those below one and above another."""
    cited_by: dict[str, list[str]] = {}

    def auth_ids(event_id: str) -> tuple[str, ...]:
        ids = room.auth_ids(event_id)
        for auth_id in ids:
            cited_by.setdefault(auth_id, []).append(event_id)
        return ids

    _reachable(conflicted_ids, auth_ids)
    # What cites them was noted only of events reached from conflicted ones, so this stays among those.
    return _reachable(conflicted_ids, lambda event_id: cited_by.get(event_id, ()))


def _power_order(room: _Room, chosen: Collection[str], events: Mapping[str, Event]) -> list[Event]:
    """The reverse topological power ordering: Kahn's algorithm, always taking the smallest that is free."""

    def rank(event_id: str) -> tuple[int, int, str]:
        event = events[event_id]
        return -room.sender_level(event), event.origin_server_ts, event_id

    waiting: dict[str, int] = {}
    cited_by: dict[str, list[str]] = {}
    for event_id in chosen:
        needed = set(_within(room.auth_ids(event_id), chosen))
        waiting[event_id] = len(needed)
        for auth_id in needed:
            cited_by.setdefault(auth_id, []).append(event_id)
    free = [rank(event_id) for event_id, count in waiting.items() if not count]
    heapq.heapify(free)
    ordered: list[Event] = []
    while free:
        event_id = heapq.heappop(free)[-1]
        ordered.append(events[event_id])
        for citing in cited_by.get(event_id, ()):
            waiting[citing] -= 1
            if not waiting[citing]:
                heapq.heappush(free, rank(citing))
    return ordered


def _mainline_order(room: _Room, events: Iterable[Event], power_levels: str | None) -> list[Event]:
    """The mainline ordering based on a power levels event, from smallest to largest."""
    mainline = _Mainline(room, power_levels)
    return sorted(events, key=lambda e: (-mainline.position_of(e), e.origin_server_ts, e.event_id))


class _Mainline:
    """The mainline of a power levels event, walked back no further than is asked for."""

    def __init__(self, room: _Room, power_levels: str | None) -> None:
        self._room = room
        self._length = 0
        self._next = None if power_levels is None else room.get(power_levels)
        self._positions: dict[str, float] = {}
        """Of power levels events, on the mainline and off it."""

    def position_of(self, event: Event) -> float:
        """The mainline position of an event: the smaller the later, infinite if it rests on none of it."""
        walked: list[str] = []
        current = self._room.power_levels_of(event)
        while current is not None and not self._knows(current.event_id):
            # Set at once, so that a circle ends the walk like the end of a chain.
            self._positions[current.event_id] = math.inf
            walked.append(current.event_id)
            current = self._room.power_levels_of(current)
        position = math.inf if current is None else self._positions[current.event_id]
        self._positions.update(dict.fromkeys(walked, position))
        return position

    def _knows(self, event_id: str) -> bool:
        while event_id not in self._positions and self._next is not None:
            self._positions[self._next.event_id] = self._length
            self._length += 1
            self._next = self._room.power_levels_of(self._next)
            if self._next is not None and self._next.event_id in self._positions:
                self._next = None
        return event_id in self._positions


def _iterative_auth_checks(
    room: _Room, events: Iterable[Event], resolved: dict[StateKey, str], start: StateMap
) -> None:
    """Puts each event into `resolved` that is allowed by the state so far: `resolved`, else `start`."""
    for event in events:
        own = {
            auth_event.state_tuple: auth_event
            for auth_event in room.existing(event.auth_events)
            if auth_event.event_id not in room.rejected
        }
        if room.version.room_id_is_create_hash:
            # No event names it, as the room id does.
            for create in room.existing([create_event_id(event.room_id)]):
                own[_CREATE] = create

        def lookup(event_type: str, state_key: str, own: Mapping[StateKey, Event] = own) -> Event | None:
            key = (event_type, state_key)
            event_id = resolved.get(key) or start.get(key)
            return own.get(key) if event_id is None else room.get(event_id)

        if is_allowed(room.version, event, lookup):
            resolved[event.state_tuple] = event.event_id


# --- version 1 --------------------------------------------------------------------------------------


def _resolve_v1(room: _Room, state_sets: Sequence[StateMap]) -> dict[StateKey, str]:
    # Start by setting R to the union of the states to be resolved, excluding any conflicting events.
    candidates: dict[StateKey, set[str]] = {}
    for state in state_sets:
        for key, event_id in state.items():
            candidates.setdefault(key, set()).add(event_id)
    resolved = {key: next(iter(ids)) for key, ids in candidates.items() if len(ids) == 1}
    conflicts = {key: room.existing(ids) for key, ids in candidates.items() if len(ids) > 1}

    # First we resolve conflicts between m.room.power_levels events. Repeat the above process for
    # conflicts between m.room.join_rules events, and between m.room.member events.
    for event_type in ("m.room.power_levels", "m.room.join_rules", "m.room.member"):
        of_type = {key: events for key, events in conflicts.items() if key[0] == event_type}
        winners = {key: _last_allowed(room, events, resolved) for key, events in of_type.items()}
        resolved.update({key: winner.event_id for key, winner in winners.items() if winner is not None})
        for key in of_type:
            del conflicts[key]
    # No other events affect the authorisation rules, so for all other conflicts, just pick the event with
    # the highest depth and lowest sha1(event_id) that passes authentication in R and add it to R.
    for key, events in conflicts.items():
        for event in reversed(_depth_order(events)):
            if is_allowed(room.version, event, _lookup_v1(room, resolved)):
                resolved[key] = event.event_id
                break
    return resolved


def _depth_order(events: Iterable[Event]) -> list[Event]:
    """Sorted by ascending depth, then descending sha1(event_id)."""
    by_hash = sorted(events, key=lambda e: hashlib.sha1(e.event_id.encode()).digest(), reverse=True)
    return sorted(by_hash, key=lambda event: event.depth)


def _last_allowed(room: _Room, events: Iterable[Event], resolved: dict[StateKey, str]) -> Event | None:
    """The first event of the list, then each subsequent one until one is not allowed.

    All events are of one key; it is not in `resolved` yet.
    """
    last: Event | None = None
    for event in _depth_order(events):
        if last is not None:
            state = ChainMap({last.state_tuple: last.event_id}, resolved)
            if not is_allowed(room.version, event, _lookup_v1(room, state)):
                break
        last = event
    return last


def _lookup_v1(room: _Room, state: StateMap) -> StateLookup:
    def lookup(event_type: str, state_key: str) -> Event | None:
        event_id = state.get((event_type, state_key))
        return None if event_id is None else room.get(event_id)

    return lookup
