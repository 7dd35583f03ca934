"""State resolution a second time, as plainly as the specification puts it and as slow.

It shares nothing with the server's but the authorisation rules and the reading of two words: the full
auth chain of a state contains the state's own events, and a power event's auth chain is followed within
the full conflicted set.
"""

import hashlib
import itertools
from collections.abc import Mapping, Sequence

from homeserver.protocol.event_auth import AuthError, check_auth, lookup_in
from homeserver.protocol.events import Event
from homeserver.protocol.power_levels import PowerLevels
from homeserver.protocol.room_versions import RoomVersion

State = dict[tuple[str, str], str]
Events = Mapping[str, Event]


def resolve_slowly(
    version: RoomVersion, states: Sequence[State], events: Events, rejected: frozenset[str] = frozenset()
) -> State:
    if version.identifier == "1":
        return Version1(version, events).resolve(states)
    return Version2(version, events, rejected).resolve(states)


class Version2:
    def __init__(self, version: RoomVersion, events: Events, rejected: frozenset[str]) -> None:
        self.version = version
        self.events = events
        self.rejected = rejected
        self.replays_subgraph = version.identifier == "12"

    def resolve(self, states: Sequence[State]) -> State:
        keys = set(itertools.chain(*states))
        unconflicted = {
            key: states[0][key]
            for key in keys
            if all(key in state and state[key] == states[0].get(key) for state in states)
        }
        conflicted = {state[key] for state in states for key in state if key not in unconflicted}
        if not conflicted:
            return unconflicted
        chains: list[set[str]] = [
            set().union(*(self.chain(e) | {e} for e in state.values())) for state in states
        ]
        union: set[str] = set().union(*chains)
        full = conflicted | {e for e in union if not all(e in chain for chain in chains)}
        if self.replays_subgraph:
            full |= {
                e
                for e in union
                if any(e in self.chain(above) for above in conflicted)
                and any(below in self.chain(e) for below in conflicted)
            }
        full = {e for e in full if e in self.events and self.events[e].state_key is not None}

        picked = set()
        for e in full:
            if self.is_power_event(self.events[e]):
                picked |= {e} | self.chain_within(e, full)
        state = self.check_each(self.sort_by_power(picked), {} if self.replays_subgraph else unconflicted)
        remaining = self.sort_by_mainline(full - picked, state.get(("m.room.power_levels", "")))
        return self.check_each(remaining, state) | unconflicted

    def auth(self, event_id: str) -> set[str]:
        return set(self.events[event_id].auth_events) if event_id in self.events else set()

    def chain(self, event_id: str) -> set[str]:
        return self.auth(event_id).union(*(self.chain(a) for a in self.auth(event_id)))

    def chain_within(self, event_id: str, full: set[str]) -> set[str]:
        inside = self.auth(event_id) & full
        return inside.union(*(self.chain_within(a, full) for a in inside))

    def is_power_event(self, event: Event) -> bool:
        if (event.type, event.state_key) in (("m.room.power_levels", ""), ("m.room.join_rules", "")):
            return True
        removed = event.content.get("membership") in ("leave", "ban") and event.sender != event.state_key
        return event.type == "m.room.member" and removed

    def of_type(self, event_id: str, event_type: str) -> str | None:
        for a in self.events[event_id].auth_events:
            if a in self.events and (self.events[a].type, self.events[a].state_key) == (event_type, ""):
                return a
        return None

    def sort_by_power(self, ids: set[str]) -> list[str]:
        def key(e: str) -> tuple[int, int, str]:
            event = self.events[e]
            create = self.of_type(e, "m.room.create")
            if self.replays_subgraph:
                create = "$" + event.room_id[1:]
            level = 0
            if create is not None and create in self.events:
                pl = self.of_type(e, "m.room.power_levels")
                content = self.events[pl].content if pl else None
                level = PowerLevels(self.version, content, self.events[create]).user_level(event.sender)
            return -level, event.origin_server_ts, e

        ordered: list[str] = []
        while len(ordered) < len(ids):
            ready = [e for e in ids if e not in ordered and self.auth(e) & ids <= set(ordered)]
            ordered.append(min(ready, key=key))
        return ordered

    def sort_by_mainline(self, ids: set[str], power_levels: str | None) -> list[str]:
        mainline = self.ancestry(power_levels) if power_levels else []

        def key(e: str) -> tuple[float, int, str]:
            positions = [mainline.index(p) for p in self.ancestry(e)[1:] if p in mainline]
            position = positions[0] if positions else float("inf")
            return -position, self.events[e].origin_server_ts, e

        return sorted(ids, key=key)

    def ancestry(self, event_id: str) -> list[str]:
        above = self.of_type(event_id, "m.room.power_levels")
        return [event_id, *(self.ancestry(above) if above else [])]

    def check_each(self, ids: list[str], start: State) -> State:
        state = dict(start)
        for e in ids:
            own = {
                (self.events[a].type, self.events[a].state_key): self.events[a]
                for a in self.events[e].auth_events
                if a in self.events and a not in self.rejected
            }
            if self.replays_subgraph and (create := self.events.get("$" + self.events[e].room_id[1:])):
                own["m.room.create", ""] = create
            known: dict[tuple[str, str | None], Event] = {**own}
            known.update({key: self.events[value] for key, value in state.items() if value in self.events})
            try:
                check_auth(self.version, self.events[e], lookup_in(known.values()))
            except AuthError:
                continue
            state[self.events[e].state_tuple] = e
        return state


class Version1:
    def __init__(self, version: RoomVersion, events: Events) -> None:
        self.version = version
        self.events = events

    def resolve(self, states: Sequence[State]) -> State:
        by_key: dict[tuple[str, str], set[str]] = {}
        for state in states:
            for key, event_id in state.items():
                by_key.setdefault(key, set()).add(event_id)
        resolved = {key: ids.copy().pop() for key, ids in by_key.items() if len(ids) == 1}
        conflicts = {key: [self.events[i] for i in ids] for key, ids in by_key.items() if len(ids) > 1}
        rounds = ["m.room.power_levels", "m.room.join_rules", "m.room.member"]
        for event_type in rounds:
            found = {}
            for key in conflicts:
                if key[0] == event_type:
                    found[key] = self.climb(conflicts[key], resolved)
            resolved |= found
        for key in conflicts:
            if key[0] not in rounds:
                passing = [e for e in conflicts[key] if self.passes(e, resolved)]
                if passing:
                    deepest = max(e.depth for e in passing)
                    best = min((e for e in passing if e.depth == deepest), key=self.sha1)
                    resolved[key] = best.event_id
        return resolved

    def climb(self, events: list[Event], resolved: State) -> str:
        events = sorted(events, key=self.sha1, reverse=True)
        first, *others = sorted(events, key=lambda e: e.depth)
        state = {**resolved, first.state_tuple: first.event_id}
        for event in others:
            if not self.passes(event, state):
                break
            state[event.state_tuple] = event.event_id
        return state[first.state_tuple]

    def passes(self, event: Event, state: State) -> bool:
        try:
            check_auth(self.version, event, lambda t, k: self.events.get(state.get((t, k), "")))
        except AuthError:
            return False
        return True

    @staticmethod
    def sha1(event: Event) -> str:
        return hashlib.sha1(event.event_id.encode()).hexdigest()
