"""What is noted is written later, and stays noted when it cannot be written."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from homeserver.users.last_seen import LastSeen
from storage.errors import StoreUnavailable
from storage.log import ShardMap
from storage.records.accounts import DEVICES_SEEN
from storage.sqlite import open_store
from storage.store import Store
from tests.storage.faulty import FaultyStore

ALICE = "@alice:here"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    uri = f"sqlite:///{tmp_path / 'weft.db'}"
    store = await open_store(uri, server_name="here", shards=ShardMap(1, 1), specs=[DEVICES_SEEN])
    yield store
    await store.close()


async def test_what_cannot_be_written_is_written_the_next_time(store: Store) -> None:
    seen = LastSeen(FaultyStore(store, fail_at=1).collection(DEVICES_SEEN))
    seen.note(ALICE, "PHONE", 1, "127.0.0.1", "app")
    with pytest.raises(StoreUnavailable):
        await seen.write()
    seen.note(ALICE, "LAPTOP", 2, "127.0.0.1", "app")
    await seen.write()
    stored = await LastSeen(store.collection(DEVICES_SEEN)).of_user(ALICE)
    assert {device: record.ts for device, record in stored.items()} == {"PHONE": 1, "LAPTOP": 2}


async def test_what_is_forgotten_is_neither_kept_nor_written(store: Store) -> None:
    seen = LastSeen(store.collection(DEVICES_SEEN))
    for device in ("PHONE", "LAPTOP"):
        seen.note(ALICE, device, 1, "127.0.0.1", "app")
        await seen.write()
        seen.note(ALICE, device, 2, "127.0.0.1", "app")
    await seen.forget(ALICE, "PHONE")
    await seen.write()
    assert {device: record.ts for device, record in (await seen.of_user(ALICE)).items()} == {"LAPTOP": 2}
