"""Several writers of one database, as replicas are: who is first, and what a late one may do."""

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from storage.errors import Conflict, Duplicate
from storage.log import ShardMap
from storage.mongo import MongoStore, open_store
from storage.mongo.commits import MAX_ENTRIES
from tests.storage.entries import append, event_id, message, numbered, seqs
from tests.storage.records import SPECS
from tests.stores import MongoDatabase

SHARDS = ShardMap(rooms=3, users=1)
WRITERS = 3


async def opened(uri: str) -> MongoStore:
    return await open_store(uri, server_name="example.org", shards=SHARDS, specs=SPECS)


@pytest.fixture
async def stores() -> AsyncIterator[list[MongoStore]]:
    """Of one database, opened all at once."""
    data = MongoDatabase()
    stores = await asyncio.gather(*(opened(data.uri) for _ in range(WRITERS)))
    yield stores
    for store in stores:
        await store.close()
    data.destroy()


async def test_replicas_that_start_at_once_make_one_store(stores: list[MongoStore]) -> None:
    assert len({store.info.epoch for store in stores}) == 1


async def test_a_writer_sees_at_once_that_another_was_first(stores: list[MongoStore]) -> None:
    a, b, _ = (store.log for store in stores)
    await append(a, 0, message(1))
    assert await b.append(0, 1, [message(2)]) == 2
    with pytest.raises(Conflict) as caught:
        await a.append(0, 1, [message(3), message(4)])
    assert caught.value.tail == 2
    assert await a.read(0, 0, 9) == numbered([message(1), message(2)])


async def test_what_another_has_stored_is_a_duplicate(stores: list[MongoStore]) -> None:
    a, b, _ = (store.log for store in stores)
    await append(a, 0, message("x", txn=b"t" * 16))
    for entries, index in (([message("x")], 0), ([message("y"), message("z", txn=b"t" * 16)], 1)):
        with pytest.raises(Duplicate) as caught:
            await b.append(0, 1, entries)
        assert (caught.value.index, caught.value.seq) == (index, 1)
    assert await a.tail(0) == 1


async def test_a_writer_that_has_slept_takes_no_number_of_a_removed_entry(stores: list[MongoStore]) -> None:
    """Entries that were appended and removed in the meantime have left nothing that could be read."""
    asleep, awake, _ = (store.log for store in stores)
    await append(asleep, 0, message(1))
    await append(awake, 0, message(2), message(3))
    await awake.remove(0, [2, 3])
    assert seqs(await asleep.read(0, 0, 9)) == [1]
    with pytest.raises(Conflict) as caught:
        await asleep.append(0, 1, [message("late")])
    assert caught.value.tail == 3
    assert await asleep.append(0, 3, [message("late")]) == 4


async def test_of_one_commit_only_the_appends_that_are_late_fail(stores: list[MongoStore]) -> None:
    a, b, _ = (store.log for store in stores)
    for shard in (0, 1, 2):
        await append(a, shard, message(f"first {shard}"))
    await append(b, 1, message("between"))
    results = await asyncio.gather(
        *(a.append(shard, 1, [message(f"{shard} a"), message(f"{shard} b")]) for shard in (0, 1, 2)),
        return_exceptions=True,
    )
    assert [results[0], results[2]] == [3, 3]
    assert isinstance(results[1], Conflict)
    assert await a.by_event_id(1, [event_id("1 a"), event_id("1 b")]) == {}


async def test_what_cannot_be_stored_fails_alone(stores: list[MongoStore]) -> None:
    log = stores[0].log
    results = await asyncio.gather(
        log.append(0, 0, [message("a")]),
        log.append(1, 0, [message("b", sender="\ud800")]),
        log.append(2, 0, [message("c")]),
        return_exceptions=True,
    )
    assert [results[0], results[2]] == [1, 1]
    assert isinstance(results[1], UnicodeEncodeError)
    assert await log.tail(1) == 0


async def test_what_builds_upon_a_refused_append_is_refused_though_another_wrote_as_much(
    stores: list[MongoStore],
) -> None:
    """Entries are checked against what they build upon: as many others in its place are not that."""
    a, b, _ = (store.log for store in stores)
    await append(a, 0, message("first"))
    await append(b, 0, *(message(f"other {n}") for n in range(MAX_ENTRIES)))
    results = await asyncio.gather(
        a.append(0, 1, [message(f"refused {n}") for n in range(MAX_ENTRIES)]),
        a.append(0, 1 + MAX_ENTRIES, [message("built upon it")]),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [Conflict, Conflict]
    assert await a.tail(0) == 1 + MAX_ENTRIES
    assert await a.append(0, 1 + MAX_ENTRIES, [message("made anew")]) == 2 + MAX_ENTRIES


@pytest.mark.parametrize("seed", [1, 2])
async def test_three_writers_of_one_shard_leave_it_dense(stores: list[MongoStore], seed: int) -> None:
    acknowledged: dict[int, str] = {}
    conflicts = 0

    async def write(store: MongoStore, writer: int) -> None:
        nonlocal conflicts
        rng = random.Random(seed * 100 + writer)
        tail = 0
        for turn in range(15):
            entries = [message(f"{writer} {turn} {n}") for n in range(rng.randrange(1, 12))]
            while True:
                try:
                    tail = await store.log.append(0, tail, entries)
                except Conflict as conflict:
                    conflicts += 1
                    tail = conflict.tail
                else:
                    break
            for seq, entry in enumerate(entries, start=tail - len(entries) + 1):
                assert seq not in acknowledged
                acknowledged[seq] = str(entry.event_id)

    await asyncio.gather(*(write(stores[n % WRITERS], n) for n in range(2 * WRITERS)))
    stored = await stores[0].log.read(0, 0, 5000)
    assert seqs(stored) == list(range(1, len(stored) + 1))
    assert {entry.seq: entry.event_id for entry in stored} == acknowledged
    assert conflicts > 0
