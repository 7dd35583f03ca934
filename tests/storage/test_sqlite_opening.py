"""Which files are opened, and what an opening leaves behind."""

import asyncio
import sqlite3
import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from storage.collection import CollectionSpec, Index
from storage.errors import StoreError, StoreRefused, StoreUnavailable
from storage.log import ShardMap
from storage.sqlite import SqliteStore, open_store
from storage.sqlite.schema import MIGRATIONS, migrate
from storage.store import FORMAT
from tests.storage.entries import message
from tests.storage.records import PEOPLE, SPECS, Person

REPOSITORY = Path(__file__).parents[2]


async def opened(path: Path | str, specs: Sequence[CollectionSpec[Any]] = SPECS) -> SqliteStore:
    return await open_store(str(path), server_name="example.org", shards=ShardMap(1, 1), specs=specs)


async def made(path: Path) -> None:
    """Create a store with one entry and one record."""
    store = await opened(path)
    await store.log.append(0, 0, [message("a")])
    await store.collection(PEOPLE).put(Person(user_id="a"))
    await store.close()


def mode(path: Path, suffix: str) -> int:
    return stat.S_IMODE(Path(f"{path}{suffix}").stat().st_mode)


def edit(path: Path, statement: str) -> None:
    db = sqlite3.connect(path, isolation_level=None)
    db.execute(statement)
    db.close()


@pytest.mark.parametrize(
    "statement", [f"UPDATE store SET format = {FORMAT + 1}", f"PRAGMA user_version = {len(MIGRATIONS) + 1}"]
)
async def test_a_newer_store_is_refused_and_not_touched(tmp_path: Path, statement: str) -> None:
    path = tmp_path / "weft.db"
    await made(path)
    edit(path, statement)
    before = path.read_bytes()
    with pytest.raises(StoreRefused, match=r"newer release.*restore a backup"):
        await opened(path)
    assert path.read_bytes() == before


async def test_a_store_of_another_server_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "weft.db"
    await made(path)
    edit(path, f"PRAGMA user_version = {len(MIGRATIONS) - 1}")
    before = path.read_bytes()
    with pytest.raises(StoreRefused, match=r"other\.org"):
        await open_store(str(path), server_name="other.org", shards=ShardMap(1, 1), specs=SPECS)
    assert path.read_bytes() == before


async def test_a_database_of_another_program_is_refused_and_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "photos.db"
    edit(path, "CREATE TABLE photos (id)")
    before = path.read_bytes()
    with pytest.raises(StoreRefused, match="another program"):
        await opened(path)
    assert path.read_bytes() == before


async def test_a_file_that_is_no_database_is_refused_and_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "weft.db"
    path.write_bytes(b"not a database " * 1000)
    with pytest.raises(StoreRefused, match="damaged"):
        await opened(path)
    assert path.read_bytes() == b"not a database " * 1000


async def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match=r"nowhere.*No such file"):
        await opened(tmp_path / "nowhere" / "weft.db")


async def test_only_the_owner_may_read_the_file(tmp_path: Path) -> None:
    path = tmp_path / "weft.db"
    store = await opened(path)
    await store.log.append(0, 0, [message("a")])
    assert [mode(path, suffix) for suffix in ("", "-wal", "-lock")] == [0o600] * 3
    await store.close()


@pytest.mark.parametrize("name", ["a b.db", "100%.db", "what?mode=ro#x.db", "ünï.db"])
@pytest.mark.parametrize("scheme", ["", "sqlite:///"])
async def test_any_path_will_do(tmp_path: Path, scheme: str, name: str) -> None:
    store = await opened(f"{scheme}{tmp_path / name}")
    await store.log.append(0, 0, [message("a")])
    assert await store.log.tail(0) == 1
    await store.close()
    assert (tmp_path / name).exists()


async def test_a_relative_path_is_taken_from_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = await opened("sqlite:///weft.db")
    await store.close()
    assert (tmp_path / "weft.db").exists()


async def test_a_store_that_is_open_is_not_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "weft.db"
    store = await opened(path)
    with pytest.raises(StoreRefused, match=r"Another process has .*weft\.db open"):
        await opened(path)
    await store.log.append(0, 0, [message("a")])
    await store.close()
    await store.close()
    again = await opened(path)
    assert await again.log.tail(0) == 1
    await again.close()


HOLD = """
import asyncio, sys
from storage.log import ShardMap
from storage.sqlite import open_store

async def main():
    store = await open_store(sys.argv[1], server_name="example.org", shards=ShardMap(1, 1), specs=())
    print("open", flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_a_store_of_another_process_is_refused_until_that_one_ends(tmp_path: Path) -> None:
    path = tmp_path / "weft.db"
    holder = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLD, str(path), cwd=REPOSITORY, stdout=asyncio.subprocess.PIPE
    )
    assert holder.stdout is not None
    assert await holder.stdout.readline() == b"open\n"
    with pytest.raises(StoreRefused, match="Another process"):
        await opened(path)
    holder.kill()
    await holder.wait()
    await made(path)


async def test_migrations_are_taken_once_each_and_in_order(tmp_path: Path) -> None:
    path = tmp_path / "weft.db"
    await made(path)
    db = sqlite3.connect(path, isolation_level=None)
    taken: list[int] = []

    def step(number: int) -> None:
        taken.append(number)
        db.execute(f"CREATE TABLE step{number} (x)")

    more = (*MIGRATIONS, lambda _: step(1), lambda _: step(2))
    migrate(db, more)
    migrate(db, (*more, lambda _: step(3)))
    assert taken == [1, 2, 3]
    db.close()


async def test_an_interrupted_migration_is_taken_again_from_its_start(tmp_path: Path) -> None:
    path = tmp_path / "weft.db"
    await made(path)
    db = sqlite3.connect(path, isolation_level=None)

    def interrupted(db: sqlite3.Connection) -> None:
        db.execute("CREATE TABLE added (x)")
        db.execute("UPDATE store SET server_name = 'half.done'")
        raise KeyboardInterrupt

    def whole(db: sqlite3.Connection) -> None:
        db.execute("CREATE TABLE added (x)")

    with pytest.raises(KeyboardInterrupt):
        migrate(db, (*MIGRATIONS, interrupted))
    db.close()
    store = await opened(path)
    assert await store.log.tail(0) == 1
    await store.close()
    db = sqlite3.connect(path, isolation_level=None)
    migrate(db, (*MIGRATIONS, whole))
    assert db.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS) + 1,)
    db.close()


async def test_a_store_whose_creation_was_interrupted_is_created_again(tmp_path: Path) -> None:
    path = tmp_path / "weft.db"
    path.touch()
    store = await opened(path)
    await store.close()
    path.unlink()
    db = sqlite3.connect(path, isolation_level=None)
    migrate(db)
    db.close()
    await made(path)


async def test_a_spec_that_cannot_be_met_changes_nothing(tmp_path: Path) -> None:
    """Two records hold what would have to be unique: the store opens as before with the old spec."""
    path = tmp_path / "weft.db"
    store = await opened(path)
    await store.collection(PEOPLE).put_many([Person(user_id=u, city="x", age=1) for u in "ab"])
    await store.close()
    unique = CollectionSpec("people", Person, ("user_id",), (Index("one_a_city", ("city",), unique=True),))
    with pytest.raises(StoreError, match="UNIQUE"):
        await opened(path, (unique,))
    store = await opened(path)
    assert await store.collection(PEOPLE).count("by_age", (1,)) == 2
    await store.close()


async def test_a_collection_whose_key_changed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weft.db"
    await made(path)
    with pytest.raises(StoreRefused, match="key of people"):
        await opened(path, (CollectionSpec("people", Person, ("user_id", "city")),))


async def test_opening_again_with_the_same_specs_changes_no_table(tmp_path: Path) -> None:
    path = tmp_path / "weft.db"
    await made(path)

    def schema_version() -> int:
        db = sqlite3.connect(path)
        version: int = db.execute("PRAGMA schema_version").fetchone()[0]
        db.close()
        return version

    before = schema_version()
    store = await opened(path)
    await store.close()
    assert schema_version() == before
