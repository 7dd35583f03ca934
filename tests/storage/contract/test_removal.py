"""Bodies that are replaced, and entries that are dropped for good."""

import pytest

from storage.errors import Duplicate
from storage.log import Kind, Log, ShardMap
from storage.store import Store
from tests.storage.conftest import Backend
from tests.storage.entries import (
    ALICE,
    ROOM,
    append,
    event_id,
    member,
    message,
    numbered,
    resolved,
    seqs,
    state,
    to_device,
)

USERS = ShardMap.USER_BASE


async def test_rewriting_replaces_body_and_meta_and_nothing_else(log: Log) -> None:
    old = message("a", txn=b"x" * 16, ts=5, meta=b'{"t":"1"}')
    await append(log, 0, old, message("b"))
    await log.rewrite(0, 1, b'{"content":{}}', b'{"x":1}')
    a, b = await log.read(0, 0, 9)
    assert (a.body, a.meta) == (b'{"content":{}}', b'{"x":1}')
    assert [a, b] == numbered([message("a", body=a.body, txn=b"x" * 16, ts=5, meta=a.meta), message("b")])
    assert await log.by_event_id(0, [event_id("a")]) == {event_id("a"): a}
    await log.rewrite(0, 1, b"", b"")
    erased = await log.entry(0, 1)
    assert erased is not None
    assert (erased.body, erased.meta) == (b"", b"")


async def test_rewriting_what_is_gone_does_nothing(log: Log) -> None:
    await append(log, 0, message("a"))
    await log.rewrite(0, 2, b"{}", b"")
    await log.rewrite(1, 1, b"{}", b"")
    assert await log.tail(0) == 1
    assert await log.tail(1) == 0


async def test_removed_entries_are_gone_from_every_read(log: Log) -> None:
    parent = event_id("parent")
    await append(log, 0, message("kept", ts=1))
    (gone,) = await append(
        log,
        0,
        message("gone", type="m.t", key="k", target=parent, rel_type="m.r", txn=b"x" * 16, ts=50),
    )
    await log.remove(0, [gone.seq])
    assert seqs(await log.read(0, 0, 9)) == [1]
    assert await log.entry(0, 2) is None
    assert seqs(await log.entries(0, [2, 1])) == [1]
    assert await log.by_event_id(0, [event_id("gone")]) == {}
    assert await log.find_event(event_id("gone")) is None
    assert await log.by_txn(0, b"x" * 16) is None
    assert seqs(await log.page(0, ROOM, kind=Kind.EVENT, limit=9)) == [1]
    assert await log.keyed(0, ROOM, kind=Kind.EVENT, type="m.t", key="k", limit=9) == []
    assert await log.current(0, ROOM, Kind.EVENT) == []
    assert await log.current_at(0, ROOM, Kind.EVENT, 9) == []
    assert await log.streams_keyed(range(1), Kind.EVENT, "m.t", "k") == {}
    assert await log.related(0, ROOM, parent, limit=9) == []
    assert await log.by_rel_type(0, ROOM, "m.r", limit=9) == []
    assert await log.near_time(0, ROOM, 40, forwards=True) is None


async def test_numbers_of_removed_entries_are_not_given_again(backend: Backend) -> None:
    store = await backend.open()
    await append(store.log, 0, *(message(i) for i in range(5)))
    await store.log.remove(0, [4, 5])
    assert await store.log.tail(0) == 5
    assert await store.log.append(0, 5, [message("next")]) == 6
    await store.log.remove(0, range(1, 7))
    await backend.close()
    store = await backend.open()
    assert await store.log.tail(0) == 6
    assert await store.log.read(0, 0, 9) == []
    assert await store.log.append(0, 6, [message("after opening")]) == 7


async def test_removing_twice_or_the_unknown_does_nothing(log: Log) -> None:
    await append(log, 0, message("a"), message("b"))
    await log.remove(0, [])
    await log.remove(0, [1, 1, 99])
    await log.remove(0, [1])
    await log.remove(1, [2])
    assert seqs(await log.read(0, 0, 9)) == [2]
    assert await log.tail(1) == 0


async def test_the_newest_entry_that_is_left_is_current(log: Log) -> None:
    await append(
        log,
        0,
        member("a1", ALICE),
        member("a2", ALICE),
        state("t", "m.room.topic", ""),
        resolved("m.room.member", ALICE, event_id("a1")),
    )
    await log.remove(0, [4])
    refs = {ref.type: ref.event_id for ref in await log.current(0, ROOM, Kind.EVENT)}
    assert refs == {"m.room.member": event_id("a2"), "m.room.topic": event_id("t")}
    await log.remove(0, [1, 3])
    refs = {ref.type: ref.event_id for ref in await log.current(0, ROOM, Kind.EVENT)}
    assert refs == {"m.room.member": event_id("a2")}


async def test_what_was_backfilled_later_is_not_newer(log: Log) -> None:
    await append(
        log,
        0,
        member("first", ALICE),
        member("last", ALICE),
        member("before both", ALICE, pos=-1),
    )
    await log.remove(0, [2])
    assert [ref.event_id for ref in await log.current(0, ROOM, Kind.EVENT)] == [event_id("first")]


async def test_thousands_of_messages_are_removed_at_once(log: Log) -> None:
    stored = await append(log, USERS, *(to_device(ALICE, "ONE", b"%d" % i) for i in range(1700)))
    await log.remove(USERS, seqs(stored[:-1]))
    left = await log.keyed(USERS, ALICE, kind=Kind.TO_DEVICE, type="m.to_device", key="ONE", limit=9)
    assert left == stored[-1:]


async def test_a_stream_without_entries_is_not_listed(log: Log) -> None:
    await append(log, 0, message("a", "!a:x"), message("b", "!b:x"))
    await log.remove(0, [1])
    assert await log.streams(0, limit=9) == ["!b:x"]
    await append(log, 0, message("c", "!a:x"))
    assert await log.streams(0, limit=9) == ["!a:x", "!b:x"]


async def test_a_removed_event_may_be_stored_again(store: Store) -> None:
    await append(store.log, 0, message("a", txn=b"x" * 16))
    await store.log.remove(0, [1])
    assert await store.log.append(0, 1, [message("a", txn=b"x" * 16)]) == 2
    with pytest.raises(Duplicate):
        await store.log.append(0, 2, [message("a")])
