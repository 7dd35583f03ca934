"""Servers that die, step down or fall behind: the log stays dense, and what was acknowledged stays
(HARDENING 40)."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import pytest
from pymongo import MongoClient, WriteConcern
from pymongo.read_concern import ReadConcern

from storage.collection import CollectionSpec
from storage.errors import Conflict, OutcomeUnknown, StoreUnavailable
from storage.log import Entry, Kind, ShardMap
from storage.mongo import MongoStore, connection, open_store, watch
from storage.mongo.documents import to_document
from storage.mongo.schema import BY_SLOT, LOG
from tests.real_parts import mongodb
from tests.real_parts.mongodb import Node, ReplicaSet
from tests.storage.entries import ROOM, append, message, seqs
from tests.storage.records import KEYS, SPECS, Key

SHARDS = ShardMap(rooms=2, users=1)
WRITERS = 6
HELD_BACK = "stopReplProducer"
"""The fail point that keeps a secondary from fetching what the primary has."""
SLOW_INDEX = "hangAfterSettingUpIndexBuild"


@pytest.fixture(scope="module")
def three() -> Iterator[ReplicaSet]:
    servers = ReplicaSet(3)
    yield servers
    servers.stop()


@pytest.fixture(scope="module")
def one() -> Iterator[ReplicaSet]:
    """A set that a test may kill, which the shared one is not."""
    servers = ReplicaSet(1)
    yield servers
    servers.stop()


async def opened(
    servers: ReplicaSet, uri: str | None = None, specs: Sequence[CollectionSpec[Any]] = ()
) -> MongoStore:
    uri = uri or mongodb.new_database_uri(servers.uri)
    return await open_store(uri, server_name="example.org", shards=SHARDS, specs=specs)


def hold_back(node: Node, mode: str) -> None:
    node.admin("configureFailPoint", HELD_BACK, mode=mode)


@pytest.mark.parametrize(
    ("read_concern", "numbers"),
    [("majority", [1, 2, 3, 4, 5, 6]), ("local", [1, 2, 3, 4, 5, 7])],
    ids=["majority reads", "with local reads there would be a hole"],
)
async def test_an_entry_that_no_majority_had_leaves_no_hole_behind(
    three: ReplicaSet, read_concern: str, numbers: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer dies, and the primary that alone has its entry; the driver repeats the next one's append."""
    concerns = {**connection.CONCERNS, "read_concern": ReadConcern(read_concern)}
    monkeypatch.setattr(connection, "CONCERNS", concerns)
    # With local reads the process would also notice that it had seen what is no more, a moment too late.
    monkeypatch.setattr(watch, "LOOK_EVERY_S", 3600.0)
    uri = mongodb.new_database_uri(three.uri)
    store = await opened(three, uri)
    try:
        await append(store.log, 0, *(message(n) for n in range(1, 6)))
        primary, behind = three.primary, three.secondaries
        for node in behind:
            hold_back(node, "alwaysOn")
        with MongoClient(f"mongodb://{primary.address}/", directConnection=True) as client:
            lost = client[store._connection.database.name].get_collection(LOG, write_concern=WriteConcern(1))
            lost.insert_one(to_document(0, 6, message("known to one server")))
        tail = await store.log.tail(0)
        appending = asyncio.create_task(store.log.append(0, tail, [message("next")]))
        await asyncio.sleep(0.3)
        assert not appending.done(), "nothing is acknowledged that no majority has"
        primary.kill()
        for node in behind:
            hold_back(node, "off")
        assert await asyncio.wait_for(appending, 30) == tail + 1
        assert seqs(await store.log.read(0, 0, 99)) == numbers
    finally:
        await store.close()
        primary.start()
        await asyncio.to_thread(three.wait_until_whole)


async def test_an_index_may_take_longer_to_make_than_any_operation(one: ReplicaSet) -> None:
    uri = mongodb.new_database_uri(one.uri)
    store = await opened(one, uri)
    await append(store.log, 0, message(1))
    await store.close()
    entries = mongodb.database(uri)[LOG]
    entries.drop_index(BY_SLOT)
    node = one.nodes[0]
    node.admin("configureFailPoint", SLOW_INDEX, mode="alwaysOn")
    opening = asyncio.create_task(opened(one, f"{uri}&timeoutMS=500"))
    try:
        await asyncio.wait([opening], timeout=1.5)
    finally:
        node.admin("configureFailPoint", SLOW_INDEX, mode="off")
    await (await opening).close()
    assert BY_SLOT in entries.index_information()


class Writers:
    """Some that append to two shards all the time, and know what was acknowledged to them."""

    def __init__(self, store: MongoStore, seed: int) -> None:
        self._store = store
        self._rng = random.Random(seed)
        self._stop = False
        self.acknowledged: dict[tuple[int, int], str] = {}
        self.failures = 0

    async def run(self, while_they_write: Callable[[], Awaitable[None]]) -> None:
        tasks = [asyncio.create_task(self._write(n)) for n in range(WRITERS)]
        await while_they_write()
        before = len(self.acknowledged)
        async with asyncio.timeout(30):
            while len(self.acknowledged) < before + 5 * WRITERS:
                await asyncio.sleep(0.01)
        self._stop = True
        await asyncio.gather(*tasks)

    async def _write(self, writer: int) -> None:
        log, turn, shard = self._store.log, 0, writer % 2
        while not self._stop:
            turn += 1
            entries = [message(f"{writer} {turn} {n}") for n in range(self._rng.randrange(1, 4))]
            try:
                tail = await log.append(shard, await log.tail(shard), entries)
            except Conflict:
                continue
            except (OutcomeUnknown, StoreUnavailable):
                self.failures += 1
                await asyncio.sleep(0.05)
                continue
            for seq, entry in enumerate(entries, start=tail - len(entries) + 1):
                self.acknowledged[shard, seq] = str(entry.event_id)

    async def check(self, log: MongoStore) -> None:
        for shard in (0, 1):
            stored = await log.log.read(shard, 0, 100_000)
            assert seqs(stored) == list(range(1, len(stored) + 1))
            ids = {entry.seq: entry.event_id for entry in stored}
            assert len(set(ids.values())) == len(ids)
            for (of_shard, seq), event_id in self.acknowledged.items():
                assert of_shard != shard or ids[seq] == event_id


async def test_writers_notice_nothing_of_a_primary_that_steps_down(three: ReplicaSet) -> None:
    store = await opened(three)
    writers = Writers(store, seed=1)

    async def step_down() -> None:
        await asyncio.sleep(0.3)
        await asyncio.to_thread(three.primary.admin, "replSetStepDown", 3, secondaryCatchUpPeriodSecs=2)
        await asyncio.to_thread(lambda: three.primary)

    await writers.run(step_down)
    await writers.check(store)
    assert writers.failures == 0
    await store.close()


async def test_writers_notice_nothing_of_a_primary_that_is_killed(three: ReplicaSet) -> None:
    store = await opened(three)
    writers = Writers(store, seed=2)
    killed: list[Node] = []

    async def kill() -> None:
        await asyncio.sleep(0.3)
        killed.append(await asyncio.to_thread(lambda: three.primary))
        killed[0].kill()

    await writers.run(kill)
    killed[0].start()
    await asyncio.to_thread(three.wait_until_whole)
    await writers.check(store)
    assert writers.failures == 0
    await store.close()


async def test_readers_of_much_notice_nothing_of_a_primary_that_is_killed(three: ReplicaSet) -> None:
    """The driver repeats no read of which a part has come."""
    store, last = await opened(three), 3000
    await append(store.log, 0, *(message(n, type="state", key=str(n)) for n in range(last)))
    over = asyncio.Event()

    async def read() -> None:
        while not over.is_set():
            assert len(await store.log.entries(0, range(1, last + 1))) == last
            assert len(await store.log.current(0, ROOM, Kind.EVENT)) == last

    readers = asyncio.gather(*(read() for _ in range(6)))
    await asyncio.sleep(0.5)
    killed = await asyncio.to_thread(lambda: three.primary)
    killed.kill()
    try:
        await asyncio.to_thread(lambda: three.primary)
        over.set()
        await readers
    finally:
        killed.start()
        await asyncio.to_thread(three.wait_until_whole)
        await store.close()


async def test_who_deletes_many_records_notices_nothing_of_a_primary_that_steps_down(
    three: ReplicaSet,
) -> None:
    """The driver repeats no deletion of all that meets a condition."""
    store = await opened(three, specs=SPECS)
    keys, over = store.collection(KEYS), asyncio.Event()

    async def come_and_go(user_id: str) -> None:
        made = [Key(user_id=user_id, device_id="d", key_id=str(n), order=n) for n in range(3)]
        while not over.is_set():
            await keys.put_many(made)
            assert await keys.delete_where("by_order", (user_id, "d")) == len(made)

    coming_and_going = asyncio.gather(*(come_and_go(str(n)) for n in range(WRITERS)))
    try:
        await asyncio.sleep(0.3)
        await asyncio.to_thread(three.primary.admin, "replSetStepDown", 3, secondaryCatchUpPeriodSecs=2)
        await asyncio.to_thread(lambda: three.primary)
    finally:
        over.set()
        await coming_and_going
        await store.close()


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_nothing_acknowledged_is_lost_when_the_only_server_is_killed(
    one: ReplicaSet, seed: int
) -> None:
    store = await opened(one)
    writers = Writers(store, seed)
    moment = random.Random(seed).uniform(0.05, 0.5)

    async def kill() -> None:
        await asyncio.sleep(moment)
        one.nodes[0].kill()
        one.nodes[0].start()

    await writers.run(kill)
    await writers.check(store)
    await store.close()


async def test_reads_given_up_while_no_server_is_there_leave_the_store_whole(one: ReplicaSet) -> None:
    """Their callers are cancelled, and cancelled again: the driver would keep its lock for ever."""
    store = await opened(one)
    try:
        await append(store.log, 0, message(1))
        one.nodes[0].kill()
        reads = [asyncio.create_task(store.log.read(0, 0, 9)) for _ in range(50)]
        await asyncio.sleep(0.3)
        for _ in range(5):
            for read in reads:
                read.cancel()
            await asyncio.sleep(0)
        await asyncio.wait(reads)
        one.nodes[0].start()
        one.wait_until_whole()
        async with asyncio.timeout(20):
            assert seqs(await until_read(store)) == [1]
    finally:
        async with asyncio.timeout(20):
            await store.close()


async def test_who_comes_after_one_that_was_cut_short_waits_for_the_server(one: ReplicaSet) -> None:
    """What changes several entries at once is not repeated by the driver, and fails at once."""
    store = await opened(one)
    await append(store.log, 0, message(1), message(2))
    one.nodes[0].kill()
    with pytest.raises(OutcomeUnknown):
        await store.log.remove(0, [1])
    waiting = asyncio.create_task(store.log.tail(0))
    await asyncio.wait([waiting], timeout=2)
    one.nodes[0].start()
    assert await waiting == 2
    await store.close()


async def until_read(store: MongoStore) -> list[Entry]:
    while True:
        try:
            return await store.log.read(0, 0, 9)
        except StoreUnavailable:
            await asyncio.sleep(0.1)
