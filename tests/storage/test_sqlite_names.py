"""Names are numbers in the file; the caches between the two are small here, so that they overflow."""

from pathlib import Path

import pytest

from storage.log import ShardMap
from storage.sqlite import names, open_store
from tests.storage.contract.test_model import World
from tests.storage.entries import append, message


@pytest.mark.parametrize("seed", range(2))
async def test_log_answers_rightly_while_its_caches_overflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(names, "MAX_NAMES", 4)
    store = await open_store(
        str(tmp_path / "weft.db"), server_name="example.org", shards=ShardMap(2, 1), specs=()
    )
    world = World(store.log, seed)
    for _ in range(25):
        await world.change()
        await world.compare()
    await store.close()


async def test_caches_of_names_do_not_grow_beyond_their_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "MAX_NAMES", 50)
    store = await open_store(
        str(tmp_path / "weft.db"), server_name="example.org", shards=ShardMap(2, 1), specs=()
    )
    stored = await append(store.log, 0, *(message(i, f"!{i}:x", sender=f"@{i}:x") for i in range(300)))
    for entry in stored:
        assert await store.log.entry(0, entry.seq) == entry
        assert await store.log.page(0, entry.stream, kind=entry.kind, limit=9) == [entry]
    known = store._readers._names
    assert len(known.texts) <= 50 + 4
    assert len(known._ids) <= 50
    await store.close()
