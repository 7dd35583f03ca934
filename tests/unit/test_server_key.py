"""The server's key: the same at every replica, known to the store, changed only on purpose."""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from homeserver.key_file import KeyFileError
from homeserver.server_key import establish, replace
from storage.collection import Collection
from storage.log import ShardMap
from storage.records.server_key import SERVER_KEY, SPECS, RetiredKey, ServerKey
from storage.sqlite import open_store

NOW = 1_700_000_000_000


@pytest.fixture
async def known(tmp_path: Path) -> AsyncIterator[Collection[ServerKey]]:
    uri = f"sqlite:///{tmp_path / 'weft.db'}"
    store = await open_store(uri, server_name="example.org", shards=ShardMap(1, 1), specs=SPECS)
    yield store.collection(SERVER_KEY)
    await store.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "signing.key"


def clock() -> int:
    return NOW


def write_key(path: Path, version: str) -> None:
    """A key of that version, not the one that was there."""
    path.write_text(f"ed25519 {version} {'A' * 43}")
    path.chmod(0o600)


def version_of(path: Path) -> str:
    return path.read_text().split()[1]


def move(path: Path, name: str) -> Path:
    return path.rename(path.with_name(name))


async def test_the_first_start_makes_the_key_and_later_ones_take_it(
    known: Collection[ServerKey], path: Path
) -> None:
    key = await establish(path, known)
    assert await establish(path, known) == key
    record = await known.get("")
    assert record is not None
    assert (record.key_id, record.verify_key) == (key.key_id, key.verify_key_base64)


async def test_a_replica_takes_a_copy_of_the_key(known: Collection[ServerKey], path: Path) -> None:
    key = await establish(path, known)
    copy = shutil.copy(path, path.with_name("copy.key"))
    assert await establish(copy, known) == key


async def test_a_replica_with_a_key_of_its_own_is_refused_with_the_remedy(
    known: Collection[ServerKey], path: Path, tmp_path: Path
) -> None:
    first = await establish(path, known)
    other = tmp_path / "other.key"
    write_key(other, "a_other")
    with pytest.raises(KeyFileError, match=r"copy signing\.key of another replica there") as caught:
        await establish(other, known)
    assert str(other) in str(caught.value)
    assert first.key_id in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_another_key_of_the_same_name_is_refused_too(
    known: Collection[ServerKey], path: Path, tmp_path: Path
) -> None:
    await establish(path, known)
    other = tmp_path / "other.key"
    write_key(other, version_of(path))
    with pytest.raises(KeyFileError, match="another one of that name"):
        await establish(other, known)


async def test_a_replica_without_a_key_is_refused_and_none_is_made_up(
    known: Collection[ServerKey], path: Path, tmp_path: Path
) -> None:
    await establish(path, known)
    absent = tmp_path / "absent.key"
    with pytest.raises(KeyFileError, match=f"there is no signing key at {absent}"):
        await establish(absent, known)
    assert not absent.exists()


async def test_an_administrator_replaces_the_key_and_the_old_one_is_remembered(
    known: Collection[ServerKey], path: Path
) -> None:
    old = await establish(path, known)
    kept = move(path, "signing.key.old")
    new = await replace(path, known, clock)
    assert new != old
    assert await establish(path, known) == new
    record = await known.get("")
    assert record is not None
    assert record.retired == (RetiredKey(old.key_id, old.verify_key_base64, NOW),)
    with pytest.raises(KeyFileError, match=old.key_id):
        await establish(kept, known)


async def test_a_replaced_key_can_be_taken_back(known: Collection[ServerKey], path: Path) -> None:
    first = await establish(path, known)
    kept = move(path, "signing.key.old")
    second = await replace(path, known, clock)
    move(kept, path.name)
    assert await replace(path, known, clock) == first
    record = await known.get("")
    assert record is not None
    assert [old.key_id for old in record.retired] == [second.key_id]


async def test_replacing_a_key_by_itself_is_a_mistake_that_is_told(
    known: Collection[ServerKey], path: Path
) -> None:
    await establish(path, known)
    with pytest.raises(KeyFileError, match="move it away"):
        await replace(path, known, clock)


async def test_a_new_key_needs_a_name_of_its_own(known: Collection[ServerKey], path: Path) -> None:
    await establish(path, known)
    write_key(path, version_of(path))
    with pytest.raises(KeyFileError, match="a version of its own"):
        await replace(path, known, clock)
