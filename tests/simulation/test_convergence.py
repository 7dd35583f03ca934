"""Servers that go down, and share rooms by a bad network: at last each is one, with nothing lost or forged.

HARDENING 1, 36 and 46: no order of events resets the state; what was soft-failed somewhere counts in every
state; a crash at any moment leaves nothing half done.

TEST_SIMULATION_SEEDS=n runs n seeds of each room version in place of a few, TEST_SIMULATION_SEED begins with
another one. With PYTHONHASHSEED fixed a seed takes the same course each time (see `virtual_time`).
"""

import asyncio
import os
import random
from collections import ChainMap, Counter
from collections.abc import Sequence, Set
from pathlib import Path

import pytest

from homeserver.graph.states import ids_of
from homeserver.protocol.events import Event
from homeserver.protocol.room_versions import ROOM_VERSIONS
from homeserver.tasks import end
from storage.records.side_events import SOFT_FAILED
from tests.simulation.graph import Graph
from tests.simulation.network import Network
from tests.simulation.node import Node
from tests.simulation.people import TOMBSTONE, VERSIONS, Crowd, beginning, keeper, replacement
from tests.simulation.virtual_time import run_virtually

SEEDS = int(os.environ.get("TEST_SIMULATION_SEEDS", "2"))
FIRST_SEED = int(os.environ.get("TEST_SIMULATION_SEED", "1"))
ACTS = 120
SHARES = (3, 3, 3, 1, 1)
"""Of runs with three to seven servers: of seven, what is said goes more ways, and takes longer."""
PATIENCE_SECONDS = 24 * 3600.0
"""Of simulated time, after the network has healed."""


@pytest.mark.parametrize("seed", range(FIRST_SEED, FIRST_SEED + SEEDS))
@pytest.mark.parametrize("version", VERSIONS)
def test_a_room_is_the_same_everywhere_at_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, seed: int
) -> None:
    run_virtually(monkeypatch, Simulation(tmp_path, version, seed).run())


def test_a_seed_takes_the_same_course_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    courses = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        courses.append(run_virtually(monkeypatch, Simulation(tmp_path / name, "12", 0).run()))
    assert courses[0] == courses[1]


class Simulation:
    """Three to seven servers with a room, and those that replace it; all is drawn from the seed."""

    def __init__(self, folder: Path, version: str, seed: int) -> None:
        self.folder = folder
        self.version = ROOM_VERSIONS[version]
        self.seed = f"{version}/{seed}"
        (servers,) = random.Random(self.seed).choices(range(3, 8), SHARES)
        self.names = [f"server{n}.test" for n in range(servers)]
        self.network = Network(self.seed, self.names)
        self.nodes = [Node(name, folder, self.network) for name in self.names]

    async def run(self) -> list[list[str]]:
        """The timelines of the servers."""
        try:
            for node in self.nodes:
                await node.start()
            await self._begin()
            crowd = Crowd(self.seed, self.nodes)
            cutting = asyncio.create_task(self.network.keep_cutting())
            acting = asyncio.create_task(crowd.act(ACTS))
            await self._crash_during(acting)
            await acting
            await end([cutting])
            async with asyncio.timeout(PATIENCE_SECONDS):
                await self._settle(crowd)
            return await self._check(crowd)
        finally:
            for node in self.nodes:
                if node.process.alive:
                    await node.crash()

    async def _crash_during(self, acting: "asyncio.Task[None]") -> None:
        """Have one server after the other go down and come up again."""
        rng = random.Random(f"{self.seed} crashes")
        while not acting.done():
            await asyncio.sleep(rng.uniform(0.0, 12.0))
            node = rng.choice(self.nodes)
            await node.crash()
            await asyncio.sleep(rng.choice((0.0, 1.0, 30.0)))
            await node.start()

    async def _begin(self) -> None:
        """A room with the keepers of all servers in it."""
        first, *others = self.nodes
        for node in self.nodes:
            await node.meet([other for other in self.nodes if other is not node])
        room = await first.create(self.version, beginning(self.version, self.names))
        for node in others:
            while not await node.process.run(node.join(room.room_id, keeper(node.name), [first.name])):
                await asyncio.sleep(60.0)
            await self._quiet()
        self.network.break_down()

    async def _settle(self, crowd: Crowd) -> None:
        """All hear of everything, and come to where rooms have gone."""
        await self.network.heal()
        await self._quiet()
        await self._follow(crowd)
        await self._speak(crowd)
        # Now that all know of all forks, another successor may count.
        while await self._follow(crowd):
            await self._speak(crowd)

    async def _follow(self, crowd: Crowd) -> bool:
        """Have all keepers in the rooms that replace theirs; whether one of them was not there."""
        before = [await node.room_ids() for node in self.nodes]
        for node in self.nodes:
            while not await node.process.run(crowd.follow(node)):
                await asyncio.sleep(60.0)
        return before != [await node.room_ids() for node in self.nodes]

    async def _speak(self, crowd: Crowd) -> None:
        """Twice around everybody says something, and all hear it: no event can follow upon more than some."""
        for node in self.nodes * 2:
            await crowd.speak(node, "is everybody there?")
            await self._quiet()

    async def _quiet(self) -> None:
        """Wait until everything has come to where it should."""
        while not await self._is_quiet():
            await asyncio.sleep(1.0)

    async def _is_quiet(self) -> bool:
        for node in self.nodes:
            if not await node.is_idle():
                return False
        return True

    async def _check(self, crowd: Crowd) -> list[list[str]]:
        assert self.network.lost and self.network.doubled
        assert max(node.starts for node in self.nodes) > 1
        for node in self.nodes:
            assert node.refused.keys() <= crowd.forged
        there: dict[str, list[Node]] = {}
        for node in self.nodes:
            for room_id in await node.room_ids():
                there.setdefault(room_id, []).append(node)
        known: dict[str, Event] = {}
        timelines = []
        for room_id, nodes in there.items():
            graph, seen = await self._check_room(room_id, nodes, crowd.forged)
            known |= graph.events
            timelines += seen
        assert known.keys() >= set(crowd.acknowledged)
        # Some may be redacted by now, and say nothing of what replaces the room.
        replaced = Counter(event.room_id for event in known.values() if event.type == TOMBSTONE)
        # Whoever asks for the same once more gets the room that there is.
        upgraded = set(crowd.upgraded)
        assert replaced >= Counter(old for old, _ in upgraded)
        assert there.keys() >= {new for _, new in upgraded}
        return timelines

    async def _check_room(
        self, room_id: str, nodes: Sequence[Node], forged: Set[str]
    ) -> tuple[Graph, list[list[str]]]:
        """What there is of a room in all, and the timelines of the servers that are in it."""
        first = await nodes[0].room(room_id)
        graph = Graph(first.version, ChainMap(*[await node.own_events(room_id) for node in nodes]))
        assert not [event for event in graph.events.values() if not graph.allows(event)]
        assert first.servers.keys() == {node.name for node in nodes}
        state = graph.resolved(first.head.tips)
        timelines = []
        for node in nodes:
            node.rooms.drop(room_id)
            room = await node.room(room_id)
            assert set(room.head.tips) == set(first.head.tips)
            assert dict(ids_of(room.head)) == state
            assert replacement(room) in (None, *await node.room_ids())
            timeline = await node.timeline(room_id)
            assert len(set(timeline)) == len(timeline)
            assert forged.isdisjoint(timeline)
            known = await node.process.run(node.read_back(room, graph.events))
            assert known.keys() == graph.events.keys()
            since = graph.following(timeline[0])
            for event_id, each in known.items():
                assert each.standing in (None, SOFT_FAILED)
                # What was said beside the events that the server came in upon is history to it, as is what
                # lies in a gap.
                assert each.has_state or event_id not in since or len(room.gaps) > 1
                if each.has_state:
                    assert (event_id in timeline) == (each.standing is None)
                    assert dict(await node.states.before(room, each)) == graph.before[event_id]
            timelines.append(timeline)
        return graph, timelines
