"""Who a store is, and which ones are refused."""

from pathlib import Path

import pytest

from storage.errors import StoreError, StoreRefused
from storage.log import ShardMap
from storage.store import FORMAT
from tests.storage.conftest import BACKENDS, SERVER_NAME, SHARDS, Backend
from tests.storage.entries import message
from tests.storage.records import PEOPLE, Person


async def test_a_store_keeps_its_epoch_and_another_has_another(backend: Backend, tmp_path: Path) -> None:
    info = (await backend.open()).info
    assert (info.server_name, info.shards, info.format) == (SERVER_NAME, SHARDS, FORMAT)
    await backend.close()
    assert (await backend.open()).info == info
    (tmp_path / "other").mkdir()
    other = next(make for make in BACKENDS.values())(tmp_path / "other")
    assert (await other.open()).info.epoch != info.epoch
    await other.destroy()


async def test_a_store_of_another_server_name_is_refused(backend: Backend) -> None:
    await backend.open()
    await backend.close()
    with pytest.raises(StoreRefused, match=r"example\.org.*other\.org"):
        await backend.open(server_name="other.org")
    assert (await backend.open()).info.server_name == SERVER_NAME


@pytest.mark.parametrize("shards", [ShardMap(1, 2), ShardMap(2, 3)])
async def test_other_shard_counts_are_refused(backend: Backend, shards: ShardMap) -> None:
    await backend.open()
    await backend.close()
    with pytest.raises(StoreRefused, match="2 room shards and 2 user shards"):
        await backend.open(shards=shards)


async def test_size_grows_with_what_is_stored(backend: Backend) -> None:
    store = await backend.open()
    before = await store.size_bytes()
    await store.log.append(0, 0, [message(i, body=f"{i:01000}".encode() * 10) for i in range(2000)])
    assert before > 0
    assert await store.size_bytes() > before


async def test_a_closed_store_refuses_to_work(backend: Backend) -> None:
    store = await backend.open()
    people = store.collection(PEOPLE)
    await store.log.append(0, 0, [message(1)])
    await backend.close()
    for call in (
        store.log.append(0, 1, [message(2)]),
        store.log.tail(0),
        store.log.read(0, 0, 1000),
        people.put(Person(user_id="a")),
        people.get("a"),
    ):
        with pytest.raises(StoreError):
            await call
