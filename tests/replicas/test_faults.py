"""Replicas, broker and database die, freeze and come back under load, and nothing that was said is untrue
(HARDENING 40, 41, 47).

`TEST_FAULT_ROUNDS` and `TEST_FAULT_SEED` make longer runs, `TEST_FAULTS` names the faults to choose from; a
round's fault and moments follow from the seed.
"""

import asyncio
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path

import aiohttp
import pytest
from aiokafka.admin import AIOKafkaAdminClient

from tests.real_parts.faketime import FakeClock
from tests.real_parts.kafka import Kafka
from tests.real_parts.mongodb import ReplicaSet
from tests.real_parts.wire import Wire
from tests.replicas import history
from tests.replicas.cluster import Cluster
from tests.replicas.published import check_published
from tests.server_process import free_port

ROUNDS = int(os.environ.get("TEST_FAULT_ROUNDS", "5"))
SEED = int(os.environ.get("TEST_FAULT_SEED", "20261121"))
ONLY = os.environ.get("TEST_FAULTS", "").split()
REPLICAS = 3
PREFIX = "faults"
TOPICS = ("room-log", "user-log", "messages")
QUIET_SECONDS = 60.0
YEAR = 365 * 24 * 3600
DISK_FULL = {
    "failCommands": ["insert", "update", "delete", "findAndModify"],
    "errorCode": 14031,  # OutOfDiskSpace
}


class Scene:
    """A cluster under load, and what may befall it."""

    def __init__(
        self,
        cluster: Cluster,
        kafka: Kafka,
        database: ReplicaSet,
        wires: Sequence[Wire],
        clocks: Sequence[FakeClock],
        rng: random.Random,
    ) -> None:
        self.cluster = cluster
        self.kafka = kafka
        self.database = database
        self.wires = wires
        self.clocks = clocks
        self.rng = rng
        self.all_published = True
        """Whether Kafka has everything of the round: not if a topic was deleted in it."""

    async def cut_wires(self) -> None:
        """Connections between replicas, broker and database are reset again and again."""
        for _ in range(12):
            self.rng.choice(self.wires).cut()
            await self.some(0.02, 0.4)

    async def slow_wires(self) -> None:
        await self._slow(self.wires, 0.15)

    async def slow_database(self) -> None:
        """Slow enough that requests take seconds."""
        await self._slow([wire for wire in self.wires if wire.target == self.database.nodes[0].address], 1.0)

    async def _slow(self, wires: Sequence[Wire], most: float) -> None:
        for wire in wires:
            wire.delay = self.rng.uniform(0.0, most)
        await self.some(1, 3)
        for wire in wires:
            wire.delay = 0.0

    async def kill_replica(self) -> None:
        replica = self.rng.choice(self.cluster.replicas)
        await asyncio.to_thread(replica.kill)
        await self.some(0.2, 2)
        await asyncio.to_thread(replica.start)

    async def stop_replica(self) -> None:
        """As in a rolling upgrade."""
        replica = self.rng.choice(self.cluster.replicas)
        await asyncio.to_thread(replica.stop)
        await asyncio.to_thread(replica.start)

    async def freeze_replica(self) -> None:
        """Long enough that others take over; when it wakes up, what it was about to append is late."""
        replica = self.rng.choice(self.cluster.replicas)
        replica.freeze()
        await self.some(0.3, 9)
        replica.thaw()

    async def kill_broker(self) -> None:
        await asyncio.to_thread(self.kafka.kill)
        await self.some(0.5, 6)
        await asyncio.to_thread(self.kafka.start)

    async def freeze_broker(self) -> None:
        self.kafka.pause()
        await self.some(0.5, 6)
        self.kafka.resume()

    async def miss_broker(self) -> None:
        """Absent for so long that all sessions of replicas with it have ended."""
        await asyncio.to_thread(self.kafka.stop)
        await self.some(8, 12)
        await asyncio.to_thread(self.kafka.start)

    async def delete_topic(self) -> None:
        """What was in it is lost, and it is made anew; the log has it all."""
        self.all_published = False
        admin = AIOKafkaAdminClient(bootstrap_servers=self.kafka.bootstrap)
        await admin.start()
        await admin.delete_topics([f"{self.cluster.prefix}.{self.rng.choice(TOPICS)}"])
        await admin.close()
        await self.some(1, 3)

    async def restart_database(self) -> None:
        node = self.database.nodes[0]
        await asyncio.to_thread(node.stop)
        node.start()
        await asyncio.to_thread(self.database.wait_until_whole)

    async def fill_database(self) -> None:
        """Its disk is full: it answers, and takes nothing."""
        node = self.database.nodes[0]
        await asyncio.to_thread(
            node.admin, "configureFailPoint", "failCommand", mode="alwaysOn", data=DISK_FULL
        )
        await self.some(1, 4)
        await asyncio.to_thread(node.admin, "configureFailPoint", "failCommand", mode="off")

    async def jump_clock(self) -> None:
        """One replica's clock is wrong for a while, by an hour or by a year, ahead or behind."""
        clock = self.rng.choice(self.clocks)
        clock.set(self.rng.choice((-1, 1)) * self.rng.choice((3600, YEAR)))
        await self.some(2, 5)
        clock.set(0)
        await self.some(1, 2)

    async def kill_database(self) -> None:
        node = self.database.nodes[0]
        await asyncio.to_thread(node.kill)
        await self.some(0.2, 3)
        node.start()
        await asyncio.to_thread(self.database.wait_until_whole)

    async def freeze_database(self) -> None:
        node = self.database.nodes[0]
        node.freeze()
        await self.some(0.3, 3)
        node.thaw()

    async def step_down(self) -> None:
        """The primary of three servers lets another one be it."""
        primary = await asyncio.to_thread(lambda: self.database.primary)
        await asyncio.to_thread(primary.admin, "replSetStepDown", 3, secondaryCatchUpPeriodSecs=2)
        await asyncio.to_thread(lambda: self.database.primary)

    async def kill_primary(self) -> None:
        primary = await asyncio.to_thread(lambda: self.database.primary)
        primary.kill()
        await asyncio.to_thread(lambda: self.database.primary)
        primary.start()

    async def some(self, least: float, most: float) -> None:
        await asyncio.sleep(self.rng.uniform(least, most))

    def faults(self) -> list[Callable[[], Awaitable[None]]]:
        if len(self.database.nodes) > 1:
            return [self.step_down, self.kill_primary]
        return [
            self.kill_replica,
            self.freeze_replica,
            self.kill_database,
            self.kill_broker,
            self.freeze_broker,
            self.freeze_database,
            self.stop_replica,
            self.cut_wires,
            self.slow_wires,
            self.slow_database,
            self.fill_database,
            self.restart_database,
            self.delete_topic,
            self.miss_broker,
            self.jump_clock,
        ]


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        yield session


async def suffer(scene: Scene, urls: Sequence[str], http: aiohttp.ClientSession, number: int) -> int:
    """One round; how many events were acknowledged in it. `urls`: where clients reach the replicas."""
    rng = scene.rng

    def client() -> history.Client:
        return history.Client(http, urls, random.Random(rng.random()))

    people = [await client().register(f"round{number}_{name}") for name in ("anna", "bert", "carl", "dora")]
    anna = people[0]
    rooms = []
    for _ in range(2):
        room = await anna.surely("POST", "/createRoom", {"preset": "public_chat"})
        rooms.append(room["room_id"])
        for other in people[1:]:
            await other.surely("POST", f"/rooms/{room['room_id']}/join", {})
    talkers = [history.Talker(person, room_id) for person in people for room_id in rooms]
    watchers = [history.Watcher(person) for person in people[:3]]
    for watcher in watchers:
        await watcher.sync(0)
    moderator = history.Moderator(anna, rooms[0], people[3].user_id, random.Random(rng.random()))
    over = asyncio.Event()
    async with asyncio.TaskGroup() as load:
        for talker in talkers:
            load.create_task(talker.run(over))
        for watcher in watchers:
            load.create_task(watcher.run(over))
        load.create_task(moderator.run(over))
        await scene.some(0.3, 1.0)
        faults = [fault for fault in scene.faults() if not ONLY or fault.__name__ in ONLY]
        fault = faults[number] if number < len(faults) else rng.choice(faults)
        print(f"round {number}: {fault.__name__}", flush=True)
        await fault()
        await scene.some(0.3, 1.0)
        over.set()
    timelines: dict[str, Sequence[history.Json]] = {}
    for room_id in rooms:
        told = [await anna.at(url).timeline(room_id) for url in urls]
        history.check_same(told)
        timeline = timelines[room_id] = told[0]
        for watcher in watchers:
            with suppress(TimeoutError):
                async with asyncio.timeout(QUIET_SECONDS):
                    while timeline[-1]["event_id"] not in watcher.seen[room_id]:
                        await watcher.sync(100)
        history.check_bans(timeline)
        for talker in talkers:
            if talker.room_id == room_id:
                history.check_answers(talker, timeline)
        for watcher in watchers:
            history.check_watched(watcher, room_id, timeline)
    whole, scene.all_published = scene.all_published, True
    await check_published(scene.kafka.bootstrap, f"{scene.cluster.prefix}.room-log", timelines, whole=whole)
    return sum(len(talker.acknowledged) for talker in talkers)


async def survive(scene: Scene, urls: Sequence[str], http: aiohttp.ClientSession, rounds: int) -> None:
    """So many rounds; the first ones have each fault once."""
    total = 0
    for number in range(rounds):
        try:
            total += await suffer(scene, urls, http, number)
        finally:
            unforeseen = scene.cluster.unforeseen()
            print("\n".join(unforeseen))
        assert not unforeseen
    print(f"{rounds} rounds survived, {total} acknowledged events all there (seed {SEED})")
    assert total > rounds


async def test_nothing_said_is_untrue_whatever_befalls(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    async with AsyncExitStack() as parts:
        database = await asyncio.to_thread(ReplicaSet, 1)
        parts.callback(database.stop)
        wires: list[Wire] = []

        async def wired(target: str, port: int = 0) -> str:
            wires.append(Wire(target))
            parts.push_async_callback(wires[-1].close)
            return await wires[-1].start(port)

        broker_port = free_port()
        kafka = await asyncio.to_thread(partial(Kafka, tmp_path, advertised=f"127.0.0.1:{broker_port}"))
        parts.callback(kafka.kill)
        broker = await wired(kafka.bootstrap, broker_port)
        await asyncio.to_thread(kafka.start)
        cluster = Cluster(tmp_path, 0, storage="", bus=f"kafka://{broker}", prefix=PREFIX)
        parts.callback(cluster.kill)
        clocks = [FakeClock(tmp_path / f"clock{number}") for number in range(REPLICAS)]
        urls = []
        for clock in clocks:
            store = await wired(database.nodes[0].address)
            storage = f"mongodb://{store}/faults?directConnection=true"
            replica = cluster.add(WEFT_STORAGE_URI=storage, **clock.variables)
            replica.environment["WEFT_BUS_ADDRESS"] = await wired(f"127.0.0.1:{replica.port}")
            urls.append(f"http://{await wired(f'127.0.0.1:{replica.port}')}")
        await asyncio.to_thread(cluster.start)
        scene = Scene(cluster, kafka, database, wires, clocks, random.Random(SEED))
        await survive(scene, urls, http, ROUNDS)


async def test_nothing_said_is_untrue_when_the_primary_changes(
    tmp_path: Path, http: aiohttp.ClientSession, own_kafka: Kafka
) -> None:
    await asyncio.to_thread(own_kafka.ensure_running)
    async with AsyncExitStack() as parts:
        database = await asyncio.to_thread(ReplicaSet, 3)
        parts.callback(database.stop)
        storage = database.uri.replace("/?", "/faults?")
        bus = f"kafka://{own_kafka.bootstrap}"
        cluster = Cluster(tmp_path, REPLICAS, storage=storage, bus=bus, prefix=f"{PREFIX}-of-three")
        parts.callback(cluster.kill)
        await asyncio.to_thread(cluster.start)
        scene = Scene(cluster, own_kafka, database, [], [], random.Random(SEED))
        await survive(scene, cluster.urls, http, max(2, ROUNDS // 8))
