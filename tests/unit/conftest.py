"""What several of these tests begin with."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from storage.log import ShardMap
from storage.sqlite import open_store
from storage.store import Store


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    """An empty log of one shard for rooms and one for users, and no collections."""
    uri = f"sqlite:///{tmp_path / 'weft.db'}"
    opened = await open_store(uri, server_name="example.org", shards=ShardMap(1, 1), specs=())
    yield opened
    await opened.close()
