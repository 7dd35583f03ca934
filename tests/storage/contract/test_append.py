"""Who extends a shard, and what is stored once."""

import asyncio
import random
from base64 import urlsafe_b64encode

import pytest

from storage.errors import Conflict, Duplicate
from storage.log import Entry, Kind, Log, ShardMap
from storage.store import Store
from tests.storage.conftest import SHARDS, Backend
from tests.storage.entries import ALICE, ROOM, append, event_id, member, message, numbered, seqs

USERS = ShardMap.USER_BASE


async def test_empty_shard_has_tail_zero(log: Log) -> None:
    assert await log.tail(0) == 0
    assert await log.read(0, 0, 10) == []


async def test_entries_are_numbered_from_the_tail_without_holes(log: Log) -> None:
    entries = [message(i) for i in range(5)]
    assert await log.append(0, 0, entries[:2]) == 2
    assert await log.append(0, 2, entries[2:]) == 5
    assert await log.tail(0) == 5
    assert await log.read(0, 0, 10) == numbered(entries)


async def test_appending_nothing_gives_the_tail(log: Log) -> None:
    await append(log, 0, message(1))
    assert await log.append(0, 1, []) == 1


async def test_shards_are_numbered_each_by_itself(log: Log) -> None:
    for shard in (0, 1, USERS, USERS + 1):
        assert await log.append(shard, 0, [message(shard)]) == 1
    for shard in (0, 1, USERS, USERS + 1):
        assert await log.read(shard, 0, 10) == numbered([message(shard)])


async def test_every_field_comes_back_as_it_was_given(log: Log) -> None:
    full = Entry(
        kind=Kind.EVENT,
        stream=ROOM,
        body=b'{"a": 1 }  ',
        event_id=event_id("full"),
        type="m.reaction",
        key="",
        sender=ALICE,
        target=event_id("parent"),
        rel_type="m.annotation",
        txn=b"0123456789abcdef",
        ts=1_763_718_000_123,
        meta=b'{"d":"DEVICE"}',
        pos=-7,
    )
    bare = Entry(Kind.NOTICE, ALICE)
    assert await append(log, 0, full, bare) == await log.read(0, 0, 10)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\x00\xff\xfe" * 50,
        b" " * 100_000,
        random.Random(1).randbytes(200_000),
        '{"emoji":"🧵","nul":"\\u0000"}'.encode() * 20,
    ],
    ids=["empty", "one byte", "not text", "blanks", "random", "unicode"],
)
@pytest.mark.parametrize("meta", [b"", b"\x00", b'{"t":"x"}' * 100], ids=["no meta", "a byte", "long meta"])
async def test_body_and_meta_come_back_byte_for_byte(log: Log, body: bytes, meta: bytes) -> None:
    (entry,) = await append(log, 0, message(1, body=body, meta=meta))
    assert await log.entry(0, 1) == entry


@pytest.mark.parametrize(
    "name",
    [
        "$legacy:example.org",
        "$" + "A" * 43,
        "$" + "A" * 42 + "B",
        "$" + "+" * 42 + "A",
        "$" + "-" * 42 + "A",
        "$" + "é" * 43,
        "$" + "=" * 43,
        "$" + "A" * 30 + "\n" * 13,
        "$",
        "",
        "$" + "x" * 254,
    ],
)
async def test_event_ids_of_every_shape_come_back_and_are_found(log: Log, name: str) -> None:
    (entry,) = await append(log, 0, message(1, event_id=name, target=name, rel_type="m.thread"))
    assert await log.entry(0, 1) == entry
    assert await log.by_event_id(0, [name]) == {name: entry}
    assert await log.find_event(name) == entry
    assert await log.related(0, ROOM, name, limit=5) == [entry]


@pytest.mark.parametrize("text", ["", "\x00", "a\x00b", "ünï🧵", "x" * 255, "' OR 1=1 --", "%_*?", "$a.b"])
async def test_names_of_every_shape_come_back_and_are_found(log: Log, text: str) -> None:
    (entry,) = await append(log, 0, message(1, stream=text, type=text, key=text, sender=text, rel_type=text))
    assert await log.page(0, text, kind=Kind.EVENT, limit=5) == [entry]
    assert await log.keyed(0, text, kind=Kind.EVENT, type=text, key=text, limit=5) == [entry]
    assert list(await log.streams_keyed(range(1), Kind.EVENT, text, text)) == [text]


async def test_a_late_writer_gets_a_conflict_and_stores_nothing(log: Log) -> None:
    await append(log, 0, message(1), message(2))
    for wrong in (0, 1, 3, 100):
        with pytest.raises(Conflict) as caught:
            await log.append(0, wrong, [message(3), message(4)])
        assert (caught.value.shard, caught.value.tail) == (0, 2)
    assert await log.tail(0) == 2
    assert await log.by_event_id(0, [event_id(3), event_id(4)]) == {}


async def test_an_event_is_stored_once_in_its_shard(log: Log) -> None:
    await append(log, 0, message("a"), message("b"))
    with pytest.raises(Duplicate) as caught:
        await log.append(0, 2, [message("c"), message("b", body=b"{}"), message("a")])
    assert (caught.value.index, caught.value.seq, caught.value.by) == (1, 2, "event_id")
    assert await log.tail(0) == 2
    assert await log.by_event_id(0, [event_id("c")]) == {}
    assert await log.append(1, 0, [message("a")]) == 1


async def test_a_transaction_is_stored_once_in_its_shard(log: Log) -> None:
    txn = b"0123456789abcdef"
    await append(log, 0, message("a", txn=txn), message("b", txn=b"0123456789abcdeF"))
    with pytest.raises(Duplicate) as caught:
        await log.append(0, 2, [message("c"), message("d", txn=txn)])
    assert (caught.value.index, caught.value.seq, caught.value.by) == (1, 1, "txn")
    assert await log.tail(0) == 2
    assert await log.append(1, 0, [message("a", txn=txn)]) == 1


async def test_a_double_within_one_append_is_refused_whole(log: Log) -> None:
    for first, second, by in (
        (message("a"), message("a"), "event_id"),
        (message("a", txn=b"x" * 16), message("b", txn=b"x" * 16), "txn"),
    ):
        with pytest.raises(Duplicate) as caught:
            await log.append(0, 0, [first, second])
        assert (caught.value.index, caught.value.seq, caught.value.by) == (1, 0, by)
    assert await log.tail(0) == 0


async def test_conflict_is_told_before_duplicate(log: Log) -> None:
    await append(log, 0, message("a"), message("b"))
    with pytest.raises(Conflict):
        await log.append(0, 1, [message("a")])


async def test_ids_that_begin_alike_are_told_apart(log: Log) -> None:
    """Hashes and digests that share their first half."""
    ids = ["$" + urlsafe_b64encode(bytes(16) + bytes([i]) * 16).decode().rstrip("=") for i in range(4)]
    txns = [bytes(8) + bytes([i]) * 8 for i in range(4)]
    stored = await append(
        log,
        0,
        *(message(i, event_id=ids[i], txn=txns[i], target=ids[i - 1], rel_type="m.thread") for i in range(3)),
    )
    assert await log.by_event_id(0, ids[1:]) == {ids[1]: stored[1], ids[2]: stored[2]}
    assert await log.find_event(ids[3]) is None
    assert await log.by_txn(0, txns[2]) == stored[2]
    assert await log.by_txn(0, txns[3]) is None
    assert await log.related(0, ROOM, ids[0], limit=9) == [stored[1]]
    assert await log.with_relations(0, ROOM, ids) == {ids[3], ids[0], ids[1]}
    with pytest.raises(Duplicate) as caught:
        await log.append(0, 3, [message(3, event_id=ids[3], txn=txns[3]), message(4, event_id=ids[1])])
    assert (caught.value.index, caught.value.seq) == (1, 2)


async def test_entries_without_ids_are_never_double(log: Log) -> None:
    notice = Entry(Kind.NOTICE, ALICE, type="x")
    assert await log.append(USERS, 0, [notice, notice]) == 2
    assert await log.append(USERS, 2, [notice]) == 3


async def test_of_simultaneous_appends_only_the_faulty_ones_fail(log: Log) -> None:
    await append(log, 0, message("old"))
    results = await asyncio.gather(
        log.append(0, 1, [message("a"), message("b")]),
        log.append(1, 0, [message("c")]),
        log.append(0, 1, [message("too late")]),
        log.append(0, 3, [message("old")]),
        log.append(0, 3, [message("a")]),
        log.append(0, 3, [message("behind a and b")]),
        log.append(USERS, 5, [message("nowhere")]),
        log.append(1, 1, [message("old")]),
        return_exceptions=True,
    )
    assert results[0:2] == [3, 1]
    assert isinstance(results[2], Conflict)
    assert isinstance(results[3], Duplicate)
    assert isinstance(results[4], Duplicate)
    assert results[4].seq == 2
    assert results[5] == 4
    assert isinstance(results[6], Conflict)
    assert results[7] == 2
    assert await log.read(0, 0, 10) == numbered(
        [message("old"), message("a"), message("b"), message("behind a and b")]
    )
    assert await log.read(1, 0, 10) == numbered([message("c"), message("old")])
    assert await log.tail(USERS) == 0


async def test_shards_stay_dense_under_many_racing_writers(log: Log) -> None:
    """40 writers append 10 times each to 3 shards, some events twice; what was answered is there once."""
    acknowledged: dict[tuple[int, int], str] = {}
    conflicts = duplicates = 0

    async def write(writer: int) -> None:
        nonlocal conflicts, duplicates
        rng = random.Random(writer)
        for turn in range(10):
            shard = rng.choice((0, 1, USERS))
            entries = [message(f"{writer} {turn} {n}") for n in range(rng.randrange(1, 4))]
            if rng.random() < 0.2:
                entries.append(message(f"shared {rng.randrange(5)}"))
            while True:
                tail = await log.tail(shard)
                await asyncio.sleep(0)
                try:
                    end = await log.append(shard, tail, entries)
                except Conflict:
                    conflicts += 1
                except Duplicate as error:
                    duplicates += 1
                    del entries[error.index]
                else:
                    for seq, entry in enumerate(entries, start=end - len(entries) + 1):
                        assert (shard, seq) not in acknowledged
                        acknowledged[shard, seq] = str(entry.event_id)
                    break

    await asyncio.gather(*(write(n) for n in range(40)))
    assert conflicts > 0
    assert duplicates > 0
    for shard in (0, 1, USERS):
        stored = await log.read(shard, 0, 2000)
        assert seqs(stored) == list(range(1, len(stored) + 1))
        assert len({entry.event_id for entry in stored}) == len(stored)
        assert await log.tail(shard) == len(stored)
        for entry in stored:
            assert acknowledged.pop((shard, entry.seq)) == entry.event_id
    assert acknowledged == {}


async def test_a_cancelled_caller_does_not_cancel_its_append(log: Log) -> None:
    caller = asyncio.create_task(log.append(0, 0, [message("a")]))
    other = asyncio.create_task(log.append(0, 1, [message("b")]))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert await asyncio.wait_for(other, 30) == 2
    assert await log.read(0, 0, 10) == numbered([message("a"), message("b")])


async def test_what_was_appended_is_read_at_once(log: Log) -> None:
    for i in range(20):
        await log.append(0, i, [member(i, ALICE)])
        assert await log.tail(0) == i + 1
        assert (await log.current(0, ROOM, Kind.EVENT))[0].event_id == event_id(i)
        assert seqs(await log.page(0, ROOM, kind=Kind.EVENT, newest_first=True, limit=100))[0] == i + 1


async def test_everything_is_there_after_closing_and_opening_again(backend: Backend) -> None:
    store = await backend.open()
    entries = [message(i) for i in range(300)]
    writes = []
    for i, entry in enumerate(entries):
        writes.append(asyncio.create_task(store.log.append(0, i, [entry])))
        if i % 100 == 99:  # Some are under way when the next ones come.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
    await backend.close()
    assert await asyncio.wait_for(asyncio.gather(*writes), 30) == list(range(1, 301))
    store = await backend.open()
    assert await store.log.read(0, 0, 1000) == numbered(entries)
    assert await store.log.append(0, 300, [message("next")]) == 301


async def test_entries_of_all_room_shards_fit_the_shard_map(store: Store) -> None:
    assert store.info.shards == SHARDS
    for shard in (*SHARDS.room_shards(), *SHARDS.user_shards()):
        assert await store.log.append(shard, 0, [message(shard)]) == 1
