"""A store with what lies beside the log."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from storage.log import ShardMap
from storage.records.side_events import SPECS
from storage.sqlite import open_store
from storage.store import Store

SHARDS = ShardMap(1, 1)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = await open_store(
        f"sqlite:///{tmp_path / 'weft.db'}", server_name="here", shards=SHARDS, specs=SPECS
    )
    yield store
    await store.close()
