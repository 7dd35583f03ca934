"""kill -9 while many write: what was acknowledged is there, once, in order, and nothing is half done."""

import asyncio
import random
import sys
from pathlib import Path

import pytest

from storage.log import Kind, ShardMap
from storage.sqlite import SqliteStore, open_store
from tests.storage.entries import event_id
from tests.storage.records import SPECS

SHARDS = ShardMap(rooms=2, users=1)
ROUNDS = 6
REPOSITORY = Path(__file__).parents[2]

WRITER = """
import asyncio, sys
from storage.errors import Conflict
from storage.store import Store
from tests.storage.entries import member, message
from tests.storage.records import PEOPLE, Person
from tests.storage.test_sqlite_crash import opened

async def write(store: Store, name: str, shard: int) -> None:
    turn = 0
    while True:
        turn += 1
        entries = [message(f"{name} {turn} a"), member(f"{name} {turn} b", f"@{turn % 7}:x")]
        try:
            tail = await store.log.append(shard, await store.log.tail(shard), entries)
        except Conflict:
            continue
        print("log", shard, tail - 1, f"{name} {turn} a", sep="|")
        print("log", shard, tail, f"{name} {turn} b", sep="|")
        await store.collection(PEOPLE).put(Person(user_id=f"{name} {turn}", email=f"{name} {turn}"))
        print("record", f"{name} {turn}", sep="|", flush=True)

async def main() -> None:
    store = await opened(sys.argv[1])
    await asyncio.gather(*(write(store, f"{sys.argv[2]}.{n}", n % 2) for n in range(8)))

asyncio.run(main())
"""


async def opened(path: str) -> SqliteStore:
    return await open_store(path, server_name="example.org", shards=SHARDS, specs=SPECS)


async def killed_writer(path: Path, round: int, seconds: float) -> list[str]:
    """What a process acknowledged until it was killed, `seconds` after its first acknowledgement."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WRITER, str(path), str(round), cwd=REPOSITORY, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    first = await process.stdout.readline()
    await asyncio.sleep(seconds)
    process.kill()
    rest = await process.stdout.read()
    await process.wait()
    whole = (first + rest).decode()
    return whole[: whole.rfind("\n")].split("\n")


@pytest.mark.parametrize("seed", [1])
async def test_nothing_acknowledged_is_lost_when_the_process_is_killed(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "weft.db"
    rng = random.Random(seed)
    entries: dict[tuple[int, int], str] = {}
    records: set[str] = set()
    for round in range(ROUNDS):
        for line in await killed_writer(path, round, rng.uniform(0.0, 0.15)):
            what, *fields = line.split("|")
            if what == "log":
                entries[int(fields[0]), int(fields[1])] = fields[2]
            else:
                records.add(fields[0])
        store = await opened(str(path))
        await check(store, entries, records)
        await store.close()
    assert len(records) > ROUNDS
    assert len(entries) > 2 * ROUNDS


async def check(store: SqliteStore, entries: dict[tuple[int, int], str], records: set[str]) -> None:
    for shard in SHARDS.room_shards():
        tail = await store.log.tail(shard)
        stored = await store.log.read(shard, 0, tail + 1)
        assert [entry.seq for entry in stored] == list(range(1, tail + 1))
        assert len({entry.event_id for entry in stored}) == tail
        by_seq = {entry.seq: entry.event_id for entry in stored}
        acknowledged = {seq: event_id(name) for (of, seq), name in entries.items() if of == shard}
        assert acknowledged.items() <= by_seq.items()
        newest = {entry.key: entry.event_id for entry in stored if entry.key is not None}
        current = await store.log.current(shard, stored[0].stream, Kind.EVENT)
        assert {ref.key: ref.event_id for ref in current} == newest
        # Both entries of each append, or none.
        assert tail % 2 == 0
    people = store.collection(SPECS[0])
    assert len(await people.get_many([(name,) for name in records])) == len(records)
    assert await people.count("by_email") == await people.count("key")
