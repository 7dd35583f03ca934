"""State resolution on rooms grown at random: against a second implementation, and in every order
(HARDENING 1).

A failing case prints version and seed, which make the same room again.
"""

import itertools
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from homeserver.protocol.state_resolution import resolve

from .random_room import RandomRoom, replay
from .slow_resolution import resolve_slowly

ALGORITHMS = ["1", "2", "11", "12"]
"""A version of each algorithm, and the last one of v2."""

SEEDS = range(8)
SIZE = 45


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("version", ALGORITHMS)
def test_any_states_of_a_room_resolve_as_the_slow_way_does(version: str, seed: int) -> None:
    room = RandomRoom(version, seed, SIZE)
    states = list({tuple(sorted(state.items())): state for state in room.after.values()}.values())
    groups = [[room.after[tip] for tip in sorted(room.tips)]]
    groups += [room.random.sample(states, min(n, len(states))) for n in (2, 2, 2, 2, 2, 2, 3, 3, 5)]
    rejected = frozenset(room.rejected)
    for group in groups:
        fast = resolve(room.version, group, room.events, rejected=rejected)
        assert fast == resolve_slowly(room.version, group, room.events, rejected)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("version", ALGORITHMS)
def test_states_mixed_at_will_resolve_as_the_slow_way_does(version: str, seed: int) -> None:
    """States that no honest server would have, as a peer may hand over at a join."""
    room = RandomRoom(version, seed, SIZE)
    by_key: dict[tuple[str, str], list[str]] = {}
    for event in room.events.values():
        by_key.setdefault(event.state_tuple, []).append(event.event_id)
    for _ in range(6):
        group = [
            {key: room.random.choice(ids) for key, ids in by_key.items() if room.random.random() < 0.8}
            for _ in range(room.random.choice([2, 2, 3]))
        ]
        for state in group:
            state["m.room.create", ""] = room.create_id
        fast = resolve(room.version, group, room.events, rejected=room.rejected)
        assert fast == resolve_slowly(room.version, group, room.events, frozenset(room.rejected))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("version", ALGORITHMS)
def test_every_order_of_delivery_gives_one_state(version: str, seed: int) -> None:
    room = RandomRoom(version, seed, SIZE)
    expected = room.state_before(sorted(room.tips))
    for attempt in range(4):
        shuffle = random.Random(f"{seed}/{attempt}")
        order = list(room.events)
        shuffle.shuffle(order)
        assert replay(room, order, shuffle) == expected


def test_the_rooms_grown_here_do_fork_and_conflict() -> None:
    """Or the tests above would say little."""
    rooms = [RandomRoom(version, seed, SIZE) for version in ALGORITHMS for seed in SEEDS]
    forks = sum(len(event.prev_events) > 1 for room in rooms for event in room.events.values())
    conflicts = sum(
        len({tuple(sorted(room.after[prev].items())) for prev in event.prev_events}) > 1
        for room in rooms
        for event in room.events.values()
    )
    assert forks > 5 * len(rooms)
    assert conflicts > 3 * len(rooms)
    assert sum(len(room.rejected) for room in rooms) > len(rooms)
    kinds = {event.type for room in rooms for event in room.events.values()}
    assert {"m.room.power_levels", "m.room.join_rules", "m.room.member", "m.room.topic"} <= kinds


def test_the_outcome_does_not_hang_on_the_hash_seed_of_the_process() -> None:
    script = (
        "from tests.unit.protocol.random_room import RandomRoom\n"
        "rooms = [RandomRoom(v, s, 40) for v in ('2', '12') for s in range(4)]\n"
        "print([sorted(room.state_before(sorted(room.tips)).values()) for room in rooms])\n"
    )
    root = Path(__file__).resolve().parents[3]
    outputs = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(root)},
            cwd=root,
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(outputs) == 1
    assert all(len(output) > 500 for output in outputs)


@pytest.mark.parametrize("version", ["2", "12"])
def test_the_outcome_is_the_same_for_every_order_of_the_states(version: str) -> None:
    room = RandomRoom(version, 99, SIZE)
    states = [room.after[event_id] for event_id in list(room.after)[-5::2]]
    outcomes = [resolve(room.version, order, room.events) for order in itertools.permutations(states)]
    assert all(outcome == outcomes[0] for outcome in outcomes)
