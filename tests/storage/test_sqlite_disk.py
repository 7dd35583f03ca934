"""What an event costs on the disk, and that compression gives back what it was given."""

import random
from base64 import b64encode
from pathlib import Path

import orjson
import pytest

from storage.errors import StoreDamaged
from storage.log import Entry, Kind, ShardMap
from storage.sqlite import SqliteStore, bodies, open_store
from tests.storage.entries import ROOM, append, event_id, message

TEXT = "we shall meet at the old harbour tomorrow evening if the weather holds and nobody else objects"


async def opened(path: Path) -> SqliteStore:
    return await open_store(str(path), server_name="example.org", shards=ShardMap(1, 1), specs=())


def pdu(rng: random.Random, depth: int, size: int) -> Entry:
    """A plain message as another server or a local user would send it, `size` bytes of JSON."""

    def noise(count: int) -> str:
        return b64encode(rng.randbytes(count)).decode().rstrip("=")

    sender, ts = f"@user{rng.randrange(30)}:example.org", 1_763_000_000_000 + depth * 4321
    event = {
        "auth_events": [event_id(rng.random()) for _ in range(3)],
        "content": {"body": "", "msgtype": "m.text"},
        "depth": depth,
        "hashes": {"sha256": noise(32)},
        "origin_server_ts": ts,
        "prev_events": [event_id(rng.random())],
        "room_id": ROOM,
        "sender": sender,
        "signatures": {"example.org": {"ed25519:a_Bcde": noise(64)}},
        "type": "m.room.message",
    }
    text = " ".join(rng.choices(TEXT.split(), k=60))
    event["content"] = {"body": text[: size - len(orjson.dumps(event))], "msgtype": "m.text"}
    return Entry(
        Kind.EVENT,
        ROOM,
        orjson.dumps(event),
        event_id(rng.random()),
        "m.room.message",
        sender=sender,
        txn=rng.randbytes(16),
        ts=ts,
        meta=orjson.dumps({"d": noise(6).upper()[:10], "t": f"m{ts}.{depth}"}),
    )


@pytest.mark.parametrize(("size", "allowed"), [(655, 600), (605, 550)])
async def test_a_plain_message_takes_few_bytes_with_all_its_indexes(
    tmp_path: Path, size: int, allowed: int
) -> None:
    path, rng, count = tmp_path / "weft.db", random.Random(1), 8000
    store = await opened(path)
    await store.close()
    empty = path.stat().st_size
    store = await opened(path)
    for start in range(0, count, 20):
        entries = [pdu(rng, depth, size) for depth in range(start, start + 20)]
        assert {len(entry.body) for entry in entries} == {size}
        await store.log.append(0, start, entries)
    await store.close()
    assert (path.stat().st_size - empty) / count <= allowed


async def test_old_bodies_are_read_after_a_release_brings_another_dictionary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, rng = tmp_path / "weft.db", random.Random(2)
    expected: list[Entry] = []
    ours = bodies.shipped_dictionary()
    other, third = (b"".join(pdu(rng, i, 655).body for i in range(20)) for _ in range(2))
    for dictionary in (ours, other, third, ours):
        monkeypatch.setattr(bodies, "shipped_dictionary", lambda d=dictionary: d)
        store = await opened(path)
        expected += await append(store.log, 0, *(pdu(rng, i, 655) for i in range(10)))
        assert await store.log.read(0, 0, 100) == expected
        await store.close()


async def test_a_damaged_body_is_told_and_hides_no_other(tmp_path: Path) -> None:
    path = tmp_path / "weft.db"
    store = await opened(path)
    good, bad = await append(store.log, 0, message("good"), message("bad", body=b"0123456789" * 100))
    await store._writer.run(lambda db: db.execute("UPDATE entry SET content = x'00112233' WHERE id = 2"))
    with pytest.raises(StoreDamaged, match="damaged"):
        await store.log.entry(0, bad.seq)
    assert await store.log.entry(0, good.seq) == good
    await store.close()
