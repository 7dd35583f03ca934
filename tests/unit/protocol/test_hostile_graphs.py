"""Graphs made to cost much: the work must grow with their size and no faster, and must end
(HARDENING 13).

Each has thousands of events; a walk that visits events again and again, or once per path, would take
hours on them, and one that recurses would not return at all.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from homeserver.protocol.events import Event
from homeserver.protocol.json_types import JsonObject
from homeserver.protocol.room_versions import ROOM_VERSIONS
from homeserver.protocol.state_resolution import resolve

from .auth_room import make_event
from .slow_resolution import State

ALICE = "@alice:a"
TOPIC = ("m.room.topic", "")
LEVELS = ("m.room.power_levels", "")
EVERY_ALGORITHM = pytest.mark.parametrize("version", ["1", "2", "11", "12"])
V2_AND_LATER = pytest.mark.parametrize("version", ["2", "11", "12"])


@contextmanager
def seconds(limit: float) -> Iterator[None]:
    started = time.process_time()
    yield
    assert time.process_time() - started < limit


class Hostile:
    """A small lawful room to hang strange graphs on."""

    def __init__(self, version: str) -> None:
        self.version = ROOM_VERSIONS[version]
        self.events: dict[str, Event] = {}
        self.base: State = {}
        self.lawful: list[str] = []
        content: JsonObject = {"creator": ALICE}
        self.base_event("CREATE", "m.room.create", "", content)
        self.base_event("ALICE", "m.room.member", ALICE, {"membership": "join"})
        self.base_event("JR", "m.room.join_rules", "", {"join_rule": "public"})

    def base_event(self, name: str, type: str, state_key: str, content: JsonObject) -> None:
        event_id = self.add(name, type, state_key, content)
        self.base[type, state_key] = event_id
        if type != "m.room.create" or not self.version.room_id_is_create_hash:
            self.lawful.append(event_id)

    def add(
        self, name: str, type: str, key: str, content: JsonObject, auth: list[str] | None = None, ts: int = 1
    ) -> str:
        event_id = f"${name}" if self.version.event_ids_are_hashes else f"${name}:a"
        self.events[event_id] = make_event(
            self.version, event_id, type, ALICE, key, content,
            room_id="!CREATE" if self.version.room_id_is_create_hash else "!room:a",
            prev_events=() if type == "m.room.create" else ("$before",),
            auth_events=[*self.lawful, *(auth or [])], origin_server_ts=ts, depth=ts,
        )  # fmt: skip
        return event_id

    def levels(self, name: str, auth: list[str], ts: int = 1) -> str:
        users = {} if self.version.privileged_creators else {ALICE: 100}
        return self.add(name, "m.room.power_levels", "", {"users": users, "x": ts}, auth, ts)

    def resolve(self, *states: State) -> State:
        return resolve(self.version, [{**self.base, **state} for state in states], self.events)


@V2_AND_LATER
def test_a_deep_chain_of_power_levels(version: str) -> None:
    room = Hostile(version)
    chain = [room.levels("PL0", [])]
    for n in range(1, 10_000):
        chain.append(room.levels(f"PL{n}", [chain[-1]], n))
    with seconds(6):
        resolved = room.resolve({LEVELS: chain[0]}, {LEVELS: chain[-1]})
    assert resolved[LEVELS] == chain[-1]


@V2_AND_LATER
def test_a_ladder_in_which_the_number_of_paths_doubles_with_each_rung(version: str) -> None:
    room = Hostile(version)
    left, right = room.levels("L0", []), room.levels("R0", [])
    bottom = left
    for n in range(1, 3_000):
        left, right = room.levels(f"L{n}", [left, right], n), room.levels(f"R{n}", [left, right], n)
    with seconds(6):
        resolved = room.resolve({LEVELS: bottom}, {LEVELS: left}, {LEVELS: right})
    assert resolved[LEVELS] in (left, right)


@EVERY_ALGORITHM
def test_very_many_conflicting_keys(version: str) -> None:
    room = Hostile(version)
    levels = room.levels("PL", [])
    room.base[LEVELS] = levels
    one: State = {}
    two: State = {}
    for n in range(4_000):
        one["x", str(n)] = room.add(f"A{n}", "x", str(n), {}, [levels], 1)
        two["x", str(n)] = room.add(f"B{n}", "x", str(n), {}, [levels], 2)
    with seconds(6):
        resolved = room.resolve(one, two)
    assert resolved.items() >= two.items()


@EVERY_ALGORITHM
def test_very_many_conflicting_members(version: str) -> None:
    room = Hostile(version)
    levels = room.levels("PL", [])
    room.base[LEVELS] = levels
    one: State = {}
    two: State = {}
    for n in range(2_000):
        user = f"@{n}:a"
        one["m.room.member", user] = room.add(
            f"A{n}", "m.room.member", user, {"membership": "ban"}, [levels], 1
        )
        two["m.room.member", user] = room.add(
            f"B{n}", "m.room.member", user, {"membership": "ban"}, [levels], 2
        )
    with seconds(6):
        resolved = room.resolve(one, two)
    assert resolved.items() >= two.items()


@V2_AND_LATER
def test_twenty_states_over_one_deep_chain(version: str) -> None:
    room = Hostile(version)
    chain = [room.levels("PL0", [])]
    for n in range(1, 2_000):
        chain.append(room.levels(f"PL{n}", [chain[-1]], n))
    with seconds(6):
        resolved = room.resolve(*({LEVELS: chain[n * 100]} for n in range(20)))
    assert resolved[LEVELS] == chain[1900]


@V2_AND_LATER
def test_very_many_events_far_off_the_mainline(version: str) -> None:
    room = Hostile(version)
    main, side = [room.levels("M0", [])], [room.levels("S0", [])]
    one: State = {}
    for n in range(1, 3_000):
        side.append(room.levels(f"S{n}", [side[-1]], 1))
        one["x", str(n)] = room.add(f"X{n}", "x", str(n), {}, [side[-1]], n)
    main.append(room.levels("M1", [main[-1]], 9))
    with seconds(6):
        resolved = room.resolve({**one, LEVELS: main[1]}, {LEVELS: main[0]})
    assert resolved[LEVELS] == main[1]
    assert resolved.items() >= one.items()


@V2_AND_LATER
def test_auth_events_in_a_circle_end_like_any_others(version: str) -> None:
    room = Hostile(version)
    a, b = (f"${name}" if room.version.event_ids_are_hashes else f"${name}:a" for name in ("A", "B"))
    room.levels("A", [b], 1)
    room.levels("B", [a], 2)
    honest = room.levels("PL", [], 3)
    old = room.add("T1", "m.room.topic", "", {}, [a], 1)
    new = room.add("T2", "m.room.topic", "", {}, [honest], 2)
    with seconds(2):
        for states in (
            [{LEVELS: a, TOPIC: old}, {LEVELS: honest, TOPIC: new}],
            [{LEVELS: a, TOPIC: old}, {LEVELS: b, TOPIC: new}],
            [{TOPIC: old}, {TOPIC: new}],
        ):
            resolved = room.resolve(*states)
            assert resolved[TOPIC] in (old, new)
        assert room.resolve({LEVELS: a}, {LEVELS: honest})[LEVELS] == honest


@EVERY_ALGORITHM
def test_what_a_large_room_agrees_on_is_not_read(version: str) -> None:
    """A conflict about one topic in a room of many members costs what the conflict does."""
    room = Hostile(version)
    levels = room.levels("PL0", [])
    for n in range(1, 500):
        levels = room.levels(f"PL{n}", [levels], n)
    room.base[LEVELS] = levels
    old_topic = room.add("T1", "m.room.topic", "", {}, [levels], 1)
    new_topic = room.add("T2", "m.room.topic", "", {}, [levels], 2)
    members = {("m.room.member", f"@{n}:a"): f"$member{n}" for n in range(20_000)}
    asked: list[str] = []

    def fetch(event_id: str) -> Event | None:
        asked.append(event_id)
        return room.events[event_id]

    states = [{**members, **room.base, TOPIC: topic} for topic in (old_topic, new_topic)]
    with seconds(2):
        resolved = resolve(room.version, states, fetch)
    assert resolved == states[1]
    # From version 12 on it matters what lies between the conflicting events, down to the create event.
    assert len(asked) <= (510 if version == "12" else 8)


@V2_AND_LATER
def test_what_the_current_levels_rest_on_is_found_without_reading_the_members(version: str) -> None:
    """An old topic rests on old power levels: that the present ones do as well is seen by looking there."""
    room = Hostile(version)
    old = room.levels("PL0", [], 1)
    new = room.levels("PL1", [old], 2)
    # The members come first in the state, as they do in any room that was not just made.
    members = {("m.room.member", f"@{n}:a"): f"$member{n}" for n in range(20_000)}
    topics = [
        room.add("T1", "m.room.topic", "", {}, [old], 3),
        room.add("T2", "m.room.topic", "", {}, [new], 4),
    ]
    asked: list[str] = []

    def fetch(event_id: str) -> Event | None:
        asked.append(event_id)
        return room.events[event_id]

    states = [{**members, **room.base, LEVELS: new, TOPIC: topic} for topic in topics]
    assert resolve(room.version, states, fetch) == states[1]
    assert len(asked) <= 8
