"""A disk that is full or fails: writes are refused plainly, reads go on, and later writes work again."""

import asyncio
import random
import resource
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from storage.errors import OutcomeUnknown, StoreUnavailable
from storage.log import Kind, ShardMap
from storage.sqlite import SqliteStore, open_store
from storage.sqlite.faults import commit_error
from tests.storage.entries import message, numbered
from tests.storage.records import PEOPLE, SPECS, Person

NEW = "!new:example.org"
"""A stream that is first written to when the disk is full."""


async def opened(path: Path) -> SqliteStore:
    return await open_store(str(path), server_name="example.org", shards=ShardMap(1, 1), specs=SPECS)


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """No file can grow beyond `size`: writes behind it fail, as on a broken disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def limit_pages(store: SqliteStore, pages: int) -> None:
    """SQLite's own limit gives the error that a full disk gives."""
    await store._writer.run(lambda db: db.execute(f"PRAGMA max_page_count = {pages}").fetchall())


async def fails_whole(store: SqliteStore, why: str) -> None:
    """Appends of 40 callers and a record fail; what was there stays and is read."""
    before = await store.log.read(0, 0, 1000)
    tail = await store.log.tail(0)
    large = [message(f"large {i}", NEW, body=random.Random(i).randbytes(100_000)) for i in range(40)]
    results = await asyncio.gather(
        *(store.log.append(0, tail + i, [entry]) for i, entry in enumerate(large)),
        store.collection(PEOPLE).put(Person(user_id="b", notes={"x": "y" * 3_000_000})),
        return_exceptions=True,
    )
    for result in results:
        assert isinstance(result, StoreUnavailable)
        assert why in str(result)
    assert await store.log.tail(0) == tail
    assert await store.log.read(0, 0, 1000) == before
    assert await store.collection(PEOPLE).get("a") == Person(user_id="a")
    assert await store.collection(PEOPLE).get("b") is None


@pytest.fixture
async def store(tmp_path: Path) -> SqliteStore:
    store = await opened(tmp_path / "weft.db")
    await store.log.append(0, 0, [message(i) for i in range(10)])
    await store.collection(PEOPLE).put(Person(user_id="a"))
    return store


async def goes_on(store: SqliteStore, path: Path) -> None:
    """The next write works, and follows what was there before; nothing else turns up later."""
    assert await store.log.append(0, 10, [message("after", NEW)]) == 11
    await store.collection(PEOPLE).put(Person(user_id="c"))
    await store.close()
    again = await opened(path)
    expected = [*(message(i) for i in range(10)), message("after", NEW)]
    assert await again.log.page(0, NEW, kind=Kind.EVENT, limit=9) == numbered(expected)[10:]
    assert await again.log.read(0, 0, 100) == numbered(expected)
    assert await again.collection(PEOPLE).find("key") == [Person(user_id="a"), Person(user_id="c")]
    await again.close()


async def test_a_failing_disk_refuses_writes_and_is_used_again_once_it_works(
    store: SqliteStore, tmp_path: Path
) -> None:
    with files_up_to(1_000_000):
        await fails_whole(store, "The disk does not read or write")
        await fails_whole(store, "The disk does not read or write")
    await goes_on(store, tmp_path / "weft.db")


async def test_a_full_disk_refuses_writes_and_is_used_again_once_there_is_room(
    store: SqliteStore, tmp_path: Path
) -> None:
    await limit_pages(store, 100)
    await fails_whole(store, "The disk is full")
    await fails_whole(store, "The disk is full")
    await limit_pages(store, 1_000_000)
    await goes_on(store, tmp_path / "weft.db")


async def test_a_small_write_still_fits_where_a_large_one_does_not(store: SqliteStore) -> None:
    await limit_pages(store, 200)
    await fails_whole(store, "The disk is full")
    assert await store.log.append(0, 10, [message("small")]) == 11
    await store.close()


def test_a_commit_that_could_not_be_synced_has_an_unknown_outcome() -> None:
    """What was written may be found after a crash, though the process sees nothing of it."""
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
    assert isinstance(commit_error(error), OutcomeUnknown)
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_WRITE
    assert not isinstance(commit_error(error), OutcomeUnknown)
