"""Finding entries by number, by id, by place in their stream, by relation and by time."""

from enum import IntEnum
from typing import Any

import pytest
from msgspec.structs import replace

from storage.log import Entry, Kind, Log, ShardMap
from tests.storage.entries import ALICE, ROOM, append, event_id, message, seqs

USERS = ShardMap.USER_BASE
OTHER = "!other:example.org"


async def test_read_gives_what_follows_in_order_up_to_the_limit(log: Log) -> None:
    stored = await append(log, 0, *(message(i) for i in range(1, 21)))
    await append(log, 1, message("elsewhere"))
    assert await log.read(0, 0, 100) == stored
    assert await log.read(0, 5, 3) == stored[5:8]
    assert await log.read(0, 20, 100) == []
    assert await log.read(0, 99, 100) == []


async def test_an_entry_of_a_kind_that_a_later_release_has_can_be_read(log: Log) -> None:
    class LaterKind(IntEnum):
        MOOD = 99

    later: Any = LaterKind.MOOD
    stored = await append(log, 0, message(1), Entry(later, ROOM, b"{}", type="m.mood"), message(2))
    stored[1] = replace(stored[1], kind=Kind.UNKNOWN)
    assert await log.read(0, 0, 100) == stored
    assert await log.entry(0, 2) == stored[1]


async def test_entries_come_in_the_order_asked_and_missing_ones_are_left_out(log: Log) -> None:
    stored = await append(log, 0, *(message(i) for i in range(1, 11)))
    assert await log.entries(0, [7, 3, 99, 10]) == [stored[6], stored[2], stored[9]]
    assert await log.entries(0, []) == []
    assert await log.entry(0, 3) == stored[2]
    assert await log.entry(0, 11) is None
    assert await log.entry(1, 1) is None
    assert await log.entry(0, 0) is None


async def test_thousands_of_entries_can_be_asked_for_by_number_and_by_id(log: Log) -> None:
    stored = await append(log, 0, *(message(i) for i in range(3000)))
    assert await log.entries(0, range(3000, 0, -1)) == stored[::-1]
    found = await log.by_event_id(0, [event_id(i) for i in range(2500, 3500)])
    assert found == {entry.event_id: entry for entry in stored[2500:]}


async def test_event_ids_are_found_in_their_shard_only(log: Log) -> None:
    (a, b) = await append(log, 0, message("a"), message("b", OTHER))
    (c,) = await append(log, 1, message("c"))
    asked = [event_id(name) for name in ("c", "b", "a", "nothing")]
    assert await log.by_event_id(0, asked) == {a.event_id: a, b.event_id: b}
    assert await log.by_event_id(1, asked) == {c.event_id: c}
    assert await log.by_event_id(0, []) == {}


async def test_an_event_is_found_by_id_alone_in_any_room_shard(log: Log) -> None:
    await append(log, 0, message("a"))
    (b,) = await append(log, 1, message("b"))
    await append(log, USERS, message("in a user shard"))
    assert await log.find_event(event_id("b")) == b
    assert await log.find_event(event_id("nothing")) is None
    assert await log.find_event(event_id("in a user shard")) is None


async def test_a_transaction_is_found_in_its_shard(log: Log) -> None:
    txn = b"0123456789abcdef"
    _, b = await append(log, 0, message("a", txn=b"0123456789abcdee"), message("b", txn=txn))
    assert await log.by_txn(0, txn) == b
    assert await log.by_txn(1, txn) is None
    assert await log.by_txn(0, txn[:8]) is None
    assert await log.by_txn(0, b"x" * 16) is None


async def test_page_walks_one_kind_of_one_stream_both_ways(log: Log) -> None:
    receipt = Entry(Kind.RECEIPT, ROOM, type="m.read", key=ALICE, target=event_id(0))
    entries = [e for i in range(30) for e in (message(i), message(f"other {i}", OTHER), receipt)]
    stored = await append(log, 0, *entries)
    room = [e for e in stored if e.stream == ROOM and e.kind is Kind.EVENT]

    async def page(**how: object) -> list[Entry]:
        return await log.page(0, ROOM, kind=Kind.EVENT, **how)  # type: ignore[arg-type]

    assert await page(limit=100) == room
    assert await page(limit=100, newest_first=True) == room[::-1]
    assert await page(limit=4) == room[:4]
    assert await page(limit=4, newest_first=True) == room[:-5:-1]
    middle = room[10].position
    assert await page(after=middle, limit=3) == room[11:14]
    assert await page(before=middle, newest_first=True, limit=3) == room[9:6:-1]
    assert await page(before=middle, limit=3) == room[:3]
    assert await page(after=middle, newest_first=True, limit=3) == room[:-4:-1]
    assert await page(after=room[3].position, before=room[6].position, limit=100) == room[4:6]
    assert await page(after=middle, before=middle + 1, limit=100) == []
    assert len(await log.page(0, ROOM, kind=Kind.RECEIPT, limit=100)) == 30
    assert await log.page(1, ROOM, kind=Kind.EVENT, limit=100) == []
    assert await log.page(0, "!unknown:example.org", kind=Kind.EVENT, limit=100) == []


@pytest.mark.parametrize("count", [1, 16, 17, 40])
async def test_backfilled_history_comes_before_what_is_there(log: Log, count: int) -> None:
    live = await append(log, 0, message("live 1"), message("live 2"))
    old = await append(log, 0, *(message(f"old {i}", pos=-i) for i in range(1, count + 1)))
    page = await log.page(0, ROOM, kind=Kind.EVENT, newest_first=True, limit=100)
    assert page == [*live[::-1], *old]
    assert [entry.position for entry in page] == [2, 1, *range(-1, -count - 1, -1)]
    assert await log.page(0, ROOM, kind=Kind.EVENT, before=0, newest_first=True, limit=3) == old[:3]
    assert await log.page(0, ROOM, kind=Kind.EVENT, after=0, limit=100) == live


async def test_pages_follow_each_other_without_gap_or_overlap(log: Log) -> None:
    stored = await append(log, 0, *(message(i) for i in range(95)))
    walked: list[Entry] = []
    before: int | None = None
    while page := await log.page(0, ROOM, kind=Kind.EVENT, before=before, newest_first=True, limit=20):
        walked.extend(page)
        before = page[-1].position
    assert walked == stored[::-1]


async def test_relations_are_found_by_target_kind_and_type(log: Log) -> None:
    parent = event_id("parent")

    def about(name: str, rel_type: str | None, type: str, **fields: object) -> Entry:
        return message(name, target=parent, rel_type=rel_type, type=type, **fields)  # type: ignore[arg-type]

    await append(log, 0, message("parent"))
    like, edit, reply, dislike = await append(
        log,
        0,
        about("like", "m.annotation", "m.reaction"),
        about("edit", "m.replace", "m.room.message"),
        about("reply", "m.thread", "m.room.message"),
        about("dislike", "m.annotation", "m.reaction", sender="@bob:example.org"),
    )
    await append(
        log,
        0,
        about("no relation", None, "m.room.redaction"),
        about("in another room", "m.annotation", "m.reaction", stream=OTHER),
        message("about another", target=event_id("other"), rel_type="m.annotation"),
        Entry(Kind.RECEIPT, ROOM, type="m.read", key=ALICE, target=parent),
    )
    assert await log.related(0, ROOM, parent, limit=9) == [dislike, reply, edit, like]
    assert await log.related(0, ROOM, parent, newest_first=False, limit=9) == [like, edit, reply, dislike]
    assert await log.related(0, ROOM, parent, rel_type="m.annotation", limit=9) == [dislike, like]
    assert await log.related(0, ROOM, parent, rel_type="m.annotation", limit=1) == [dislike]
    assert await log.related(0, ROOM, parent, type="m.room.message", limit=9) == [reply, edit]
    found = await log.related(0, ROOM, parent, rel_type="m.thread", type="m.room.message", limit=9)
    assert found == [reply]
    assert await log.related(0, ROOM, parent, rel_type="m.thread", type="m.reaction", limit=9) == []
    assert await log.related(0, ROOM, parent, rel_type="never.seen", limit=9) == []
    assert await log.related(0, ROOM, parent, type="", limit=9) == []
    assert await log.related(0, ROOM, parent, sender=ALICE, limit=9) == [reply, edit, like]
    assert await log.related(0, ROOM, parent, rel_type="m.annotation", sender=ALICE, limit=1) == [like]
    assert await log.related(0, ROOM, parent, sender="@carol:example.org", limit=9) == []
    assert await log.related(0, ROOM, parent, after=edit.seq, limit=9) == [dislike, reply]
    assert await log.related(0, ROOM, parent, before=reply.seq, limit=1) == [edit]
    assert await log.related(0, ROOM, parent, after=like.seq, before=dislike.seq, limit=9) == [reply, edit]
    assert await log.related(0, ROOM, event_id("nothing"), limit=9) == []
    assert await log.related(1, ROOM, parent, limit=9) == []


async def test_events_with_relations_are_told_from_those_without(log: Log) -> None:
    await append(
        log,
        0,
        *(message(f"on {i}", target=event_id(i), rel_type="m.annotation") for i in range(0, 40, 2)),
        message("also on 2", target=event_id(2), rel_type="m.thread", sender="@bob:example.org"),
        message("no relation", target=event_id(1)),
        message("in another room", OTHER, target=event_id(3), rel_type="m.annotation"),
    )
    asked = [event_id(i) for i in range(50)]
    assert await log.with_relations(0, ROOM, asked) == {event_id(i) for i in range(0, 40, 2)}
    assert await log.with_relations(0, ROOM, asked[:3]) == {event_id(0), event_id(2)}
    assert await log.with_relations(0, ROOM, asked, rel_type="m.thread") == {event_id(2)}
    assert await log.with_relations(0, ROOM, asked[:3], rel_type="m.annotation") == {event_id(0), event_id(2)}
    assert await log.with_relations(0, ROOM, asked, rel_type="never.seen") == set()
    assert await log.with_relations(0, ROOM, asked, sender="@bob:example.org") == {event_id(2)}
    assert await log.with_relations(0, ROOM, asked, rel_type="m.thread", sender=ALICE) == set()
    assert await log.with_relations(0, ROOM, asked, sender="@carol:example.org") == set()
    assert await log.with_relations(0, ROOM, []) == set()
    assert await log.with_relations(1, ROOM, asked) == set()
    assert await log.with_relations(0, "!unknown:example.org", asked) == set()


async def test_events_of_one_relation_type_come_newest_first(log: Log) -> None:
    stored = await append(
        log,
        0,
        *(
            message(i, target=event_id(i % 3), rel_type="m.thread" if i % 2 else "m.replace")
            for i in range(30)
        ),
    )
    thread = [entry for entry in stored if entry.rel_type == "m.thread"][::-1]
    assert await log.by_rel_type(0, ROOM, "m.thread", limit=100) == thread
    assert await log.by_rel_type(0, ROOM, "m.thread", limit=4) == thread[:4]
    assert await log.by_rel_type(0, ROOM, "m.thread", before=thread[3].seq, limit=2) == thread[4:6]
    assert await log.by_rel_type(0, ROOM, "never.seen", limit=100) == []
    assert await log.by_rel_type(0, OTHER, "m.thread", limit=100) == []


async def test_the_event_nearest_to_a_time_is_found_in_both_directions(log: Log) -> None:
    """Times of events need not follow their order."""
    await append(
        log,
        0,
        message("noon", ts=1200),
        message("late", ts=2000),
        message("early", ts=700),
        message("elsewhere", OTHER, ts=1100),
        Entry(Kind.RECEIPT, ROOM, type="m.read", key=ALICE, ts=1150),
    )
    expected = {
        (True, 0): "early",
        (True, 700): "early",
        (True, 701): "noon",
        (True, 1201): "late",
        (True, 2001): None,
        (False, 5000): "late",
        (False, 1999): "noon",
        (False, 1199): "early",
        (False, 699): None,
    }
    for (forwards, ts), name in expected.items():
        found = await log.near_time(0, ROOM, ts, forwards=forwards)
        assert (found and found.event_id) == (name and event_id(name)), (forwards, ts)
    assert await log.near_time(0, "!unknown:example.org", 0, forwards=True) is None


async def test_streams_are_listed_in_order_of_name_page_by_page(log: Log) -> None:
    names = ["!B:x", "!a:x", "!z:x", "!é:x", "!🧵:x"]
    await append(log, 0, *(message(name, name) for name in reversed(names)), message("again", "!a:x"))
    await append(log, 1, message("in another shard", "!other:x"))
    assert await log.streams(0, limit=10) == names
    assert await log.streams(0, limit=2) == names[:2]
    assert await log.streams(0, after="!a:x", limit=2) == names[2:4]
    assert await log.streams(0, after=names[-1], limit=2) == []
    assert await log.streams(USERS, limit=10) == []


async def test_one_stream_name_in_two_shards_is_two_streams(log: Log) -> None:
    await append(log, 0, message("a", ALICE))
    await append(log, USERS, message("b", ALICE), message("c", ALICE))
    assert seqs(await log.page(0, ALICE, kind=Kind.EVENT, limit=9)) == [1]
    assert seqs(await log.page(USERS, ALICE, kind=Kind.EVENT, limit=9)) == [1, 2]
