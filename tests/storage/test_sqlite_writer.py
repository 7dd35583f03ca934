"""The one writer: what it does with a batch, with too many requests, and with the write-ahead log."""

import asyncio
import random
import time
from pathlib import Path

import pytest

from storage.errors import StoreUnavailable
from storage.log import Kind, ShardMap
from storage.sqlite import SqliteStore, open_store
from storage.sqlite import writer as writer_module
from tests.storage.entries import ROOM, append, member, message, seqs
from tests.storage.records import PEOPLE, SPECS, Person


@pytest.fixture
async def store(tmp_path: Path) -> SqliteStore:
    return await open_store(
        str(tmp_path / "weft.db"), server_name="example.org", shards=ShardMap(2, 1), specs=SPECS
    )


async def test_a_request_that_cannot_be_stored_fails_alone(store: SqliteStore) -> None:
    people = store.collection(PEOPLE)
    results = await asyncio.gather(
        store.log.append(0, 0, [message("good")]),
        store.log.append(1, 0, [message("no text", stream="\ud800")]),
        store.log.append(0, 1, [message("no time", ts=2**70)]),
        people.put(Person(user_id="\udfff")),
        people.put(Person(user_id="good")),
        store.log.append(0, 1, [member("also good", "@a:x")]),
        store.log.append(1, 0, [message("good")]),
        return_exceptions=True,
    )
    assert [r if isinstance(r, int | None) else type(r) for r in results] == [
        1,
        UnicodeEncodeError,
        OverflowError,
        UnicodeEncodeError,
        None,
        2,
        1,
    ]
    assert seqs(await store.log.read(0, 0, 9)) == [1, 2]
    assert await store.log.streams(1, limit=9) == [ROOM]
    assert [person.user_id for person in await people.find("key")] == ["good"]
    await store.close()


async def test_too_many_waiting_writes_are_refused_at_once(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "MAX_PENDING", 50)
    people = store.collection(PEOPLE)
    results = await asyncio.gather(
        *(people.put(Person(user_id=str(i))) for i in range(80)), return_exceptions=True
    )
    assert results[:50] == [None] * 50
    assert all(isinstance(result, StoreUnavailable) for result in results[50:])
    await people.put(Person(user_id="later"))
    assert await people.count("key") == 51
    await store.close()


async def test_writes_that_gather_become_few_commits(store: SqliteStore) -> None:
    """300 requests in one turn of the loop: the file changes once or twice, not 300 times."""

    async def version() -> int:
        number: int = await store._readers.run(
            lambda reader: reader.db.execute("PRAGMA data_version").fetchone()[0], rows=1
        )
        return number

    people = store.collection(PEOPLE)
    before = await version()
    seen = set()

    async def put(i: int) -> None:
        await people.put(Person(user_id=str(i)))
        seen.add(await version())

    await asyncio.gather(*(put(i) for i in range(300)))
    assert 1 <= len(seen - {before}) <= 2
    await store.close()


async def test_no_write_waits_for_all_that_come_behind_it(store: SqliteStore) -> None:
    """On a busy loop every turn may bring another one."""
    people = store.collection(PEOPLE)
    writes: list[asyncio.Task[None]] = []
    while len(writes) < 100 and not (writes and writes[0].done()):
        writes.append(asyncio.create_task(people.put(Person(user_id=str(len(writes))))))
        time.sleep(0.005)  # noqa: ASYNC251  (what others do in this turn)
        await asyncio.sleep(0)
    assert writes[0].done() and len(writes) < 50
    await asyncio.gather(*writes)
    await store.close()


async def test_the_write_ahead_log_stays_bounded_while_there_are_always_readers(
    store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = 4_000_000
    monkeypatch.setattr(writer_module, "WAL_LIMIT_BYTES", limit)
    wal = tmp_path / "weft.db-wal"
    done = False
    await append(store.log, 0, *(message(i, body=random.Random(i).randbytes(2000)) for i in range(1000)))

    async def read() -> None:
        while not done:
            await store.log.page(0, ROOM, kind=Kind.EVENT, limit=1000)

    readers = [asyncio.create_task(read()) for _ in range(3)]
    largest = 0
    for turn in range(150):
        body = random.Random(turn).randbytes(100_000)
        await append(store.log, 1, message(turn, body=body))
        largest = max(largest, wal.stat().st_size)
    done = True
    await asyncio.gather(*readers)
    # What is written between two looks at the size comes on top.
    assert largest < limit + 2 * writer_module.WAL_CHECKED_EVERY * 110_000
    await store.close()
    assert not wal.exists()


async def test_a_page_is_read_while_the_loop_serves_others(store: SqliteStore) -> None:
    await append(store.log, 0, *(message(i) for i in range(1000)))
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    page = await store.log.page(0, ROOM, kind=Kind.EVENT, limit=1000)
    task.cancel()
    assert len(page) == 1000
    assert turns > 1
    await store.close()


async def test_what_was_redacted_or_removed_leaves_the_file(store: SqliteStore, tmp_path: Path) -> None:
    redacted, removed, kept = (random.Random(i).randbytes(300) for i in range(3))
    await append(store.log, 0, *(message(body, body=body) for body in (redacted, removed, kept)))
    await store.log.rewrite(0, 1, b"{}", b"")
    await store.log.remove(0, [2])
    await store.close()
    content = (tmp_path / "weft.db").read_bytes()
    assert kept in content
    assert redacted not in content
    assert removed not in content
