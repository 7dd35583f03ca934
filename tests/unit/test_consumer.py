"""Consumers of the log on a real store: every entry handled, in order, and progress kept."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from homeserver.bus import consumer as module
from homeserver.bus.consumer import Consumer
from homeserver.errors import unavailable
from homeserver.shard_writer import Appended
from storage.errors import StoreDamaged, StoreUnavailable
from storage.log import Entry, ShardMap
from storage.records.cursors import CURSORS, SPECS, Cursor
from storage.sqlite import open_store
from storage.store import Store
from tests.storage.entries import append, message


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    uri = f"sqlite:///{tmp_path / 'weft.db'}"
    opened = await open_store(uri, server_name="example.org", shards=ShardMap(1, 1), specs=SPECS)
    yield opened
    await opened.close()


class Log:
    """What a consumer handled."""

    def __init__(self) -> None:
        self.handled: list[int] = []
        self.batches: list[int] = []
        self.broken: set[int] = set()

    async def one(self, shard: int, entry: Entry) -> None:
        if entry.seq in self.broken:
            raise ValueError(entry.seq)
        self.handled.append(entry.seq)

    async def many(self, shard: int, entries: Sequence[Entry]) -> None:
        if self.broken.intersection(entry.seq for entry in entries):
            raise ValueError(len(entries))
        self.batches.append(len(entries))
        self.handled += [entry.seq for entry in entries]


class SlowCursors:
    """Cursors whose writing takes until it is let go."""

    def __init__(self) -> None:
        self.go = asyncio.Event()

    async def get(self, *key: object) -> Cursor | None:
        return None

    async def insert(self, record: Cursor) -> None:
        await self.go.wait()


def everything(entry: Entry) -> bool:
    return True


def fed(entries: Sequence[Entry]) -> list[Appended]:
    return [Appended(entry) for entry in entries]


async def test_what_arrives_while_progress_is_stored_is_handled_at_once(store: Store) -> None:
    log, cursors = Log(), SlowCursors()
    consumer = Consumer("c", store.log, cursors, wants=everything, handle=log.one)  # type: ignore[arg-type]
    consumer.start({0: 0})
    consumer.own({0})
    consumer.on_entries(0, fed(await append(store.log, 0, message("one"))))
    await asyncio.sleep(0.01)
    consumer.on_entries(0, fed(await append(store.log, 0, message("two"))))
    cursors.go.set()
    await consumer.settled(0)
    assert log.handled == [1, 2]


async def test_what_was_missed_is_read_from_the_log_in_batches(store: Store) -> None:
    await append(store.log, 0, *(message(n) for n in range(20)))
    log = Log()
    consumer = Consumer(
        "c",
        store.log,
        store.collection(CURSORS),
        wants=lambda entry: entry.seq % 2 == 0,
        handle_batch=log.many,
    )
    consumer.start({0: 20})
    consumer.own({0})
    await consumer.settled(0)
    assert log.handled == list(range(2, 21, 2))
    assert log.batches == [10]


async def test_progress_outlives_the_consumer(store: Store) -> None:
    entries = await append(store.log, 0, *(message(n) for n in range(5)))
    first, second = Log(), Log()
    cursors = store.collection(CURSORS)
    consumer = Consumer("c", store.log, cursors, wants=everything, handle=first.one)
    consumer.start({0: 0})
    consumer.own({0})
    consumer.on_entries(0, fed(entries[:3]))
    await consumer.settled(0)
    await consumer.close()
    again = Consumer("c", store.log, cursors, wants=everything, handle=second.one)
    again.start({0: 5})
    again.own({0})
    await again.settled(0)
    assert (first.handled, second.handled) == ([1, 2, 3], [4, 5])


async def test_an_entry_that_cannot_be_handled_is_set_aside_alone(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.0)
    await append(store.log, 0, *(message(n) for n in range(6)))
    for name in ("one", "many"):
        log = Log()
        log.broken = {4}
        cursors = store.collection(CURSORS)
        if name == "one":
            consumer = Consumer(name, store.log, cursors, wants=everything, handle=log.one)
        else:
            consumer = Consumer(name, store.log, cursors, wants=everything, handle_batch=log.many)
        consumer.start({0: 6})
        consumer.own({0})
        await consumer.settled(0)
        await consumer.close()
        assert log.handled == [1, 2, 3, 5, 6]
        stored = await cursors.get(name, 0)
        assert stored is not None
        assert stored.seq == 6


async def test_an_entry_that_nobody_can_tell_to_be_wanted_is_set_aside_alone(store: Store) -> None:
    def beyond_the_third(entry: Entry) -> bool:
        return 12 // (entry.seq - 3) > 0

    log = Log()
    consumer = Consumer("c", store.log, store.collection(CURSORS), wants=beyond_the_third, handle=log.one)
    await append(store.log, 0, *(message(n) for n in range(5)))
    consumer.start({0: 2})
    consumer.own({0})
    await consumer.settled(0)
    consumer.on_entries(0, fed(await store.log.read(0, 2, 10)))
    await consumer.settled(0)
    assert (log.handled, consumer.set_aside) == ([4, 5], 1)
    again = Consumer("c", store.log, store.collection(CURSORS), wants=beyond_the_third, handle=log.one)
    again.start({0: 5})
    again.own({0})
    await again.settled(0)
    assert (log.handled, again.set_aside) == ([4, 5, 4, 5], 1)


@pytest.mark.parametrize("error", [unavailable("full"), StoreUnavailable("full")])
async def test_what_the_store_cannot_take_now_waits_and_is_never_set_aside(
    store: Store, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.001)
    failures, handled = iter([error] * 3 * module.ATTEMPTS), asyncio.Event()

    async def handle(shard: int, entry: Entry) -> None:
        for failure in failures:
            raise failure
        handled.set()

    consumer = Consumer("c", store.log, store.collection(CURSORS), wants=everything, handle=handle)
    consumer.start({0: 0})
    consumer.own({0})
    consumer.on_entries(0, fed(await append(store.log, 0, message("one"))))
    await asyncio.wait_for(handled.wait(), 5)
    await consumer.settled(0)
    assert consumer.lag() == {0: 0}


async def test_nothing_lags_in_shards_that_others_own_by_now(store: Store) -> None:
    async def handle(shard: int, entry: Entry) -> None: ...

    consumer = Consumer("c", store.log, store.collection(CURSORS), wants=everything, handle=handle)
    consumer.start({0: 0})
    consumer.own({0})
    await consumer.settled(0)
    consumer.own(())
    consumer.on_entries(0, fed(await append(store.log, 0, message("one"))))
    assert consumer.lag() == {}


class RemovedFrom:
    """A log from which all that it had was removed, and to which something comes while it is read."""

    def __init__(self, meanwhile: Callable[[], Awaitable[None]]) -> None:
        self._meanwhile = meanwhile

    async def read(self, shard: int, after: int, limit: int) -> list[Entry]:
        await self._meanwhile()
        return []


async def test_what_arrives_while_nothing_is_found_in_the_log_is_handled(store: Store) -> None:
    entries = await append(store.log, 0, *(message(n) for n in range(4)))
    log = Log()

    async def arrives() -> None:
        consumer.on_entries(0, fed(entries[3:]))

    consumer = Consumer(
        "c",
        RemovedFrom(arrives),  # type: ignore[arg-type]
        store.collection(CURSORS),
        wants=everything,
        handle=log.one,
    )
    consumer.start({0: 3})
    consumer.own({0})
    await consumer.settled(0)
    assert log.handled == [4]


async def test_damage_is_set_aside_alone(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """HARDENING 42: nothing waits for what can never be read again, the entry or what it is about."""
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.0)
    await append(store.log, 0, *(message(n, body=b"0123456789" * 100) for n in range(8)))
    await store._writer.run(  # type: ignore[attr-defined]
        lambda db: db.execute("UPDATE entry SET content = x'00112233' WHERE id IN (4, 5)")
    )
    await store.log.remove(0, [3])
    log = Log()

    async def handle(shard: int, entry: Entry) -> None:
        if entry.seq == 7:
            raise StoreDamaged("its room")
        await log.one(shard, entry)

    consumer = Consumer("c", store.log, store.collection(CURSORS), wants=everything, handle=handle)
    consumer.start({0: 8})
    consumer.own({0})
    await asyncio.wait_for(consumer.settled(0), 5)
    assert (log.handled, consumer.set_aside) == ([1, 2, 6, 8], 3)
    assert consumer.lag() == {0: 0}
