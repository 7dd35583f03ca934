"""State as a timeline: what a key is now, and what it was at a position."""

from msgspec.structs import replace

from storage.log import Entry, KeyedRef, Kind, Log, ShardMap
from tests.storage.entries import (
    ALICE,
    ROOM,
    account_data,
    append,
    event_id,
    member,
    message,
    resolved,
    seqs,
    state,
    to_device,
)

USERS = ShardMap.USER_BASE
BOB = "@bob:example.org"
OTHER = "!other:example.org"


def by_key(refs: list[KeyedRef]) -> dict[tuple[str, str], KeyedRef]:
    keyed = {(ref.type, ref.key): ref for ref in refs}
    assert len(keyed) == len(refs)
    return keyed


async def test_current_is_the_newest_entry_under_each_key(log: Log) -> None:
    await append(
        log,
        0,
        member("a1", ALICE),
        message("m"),
        member("b1", BOB),
        state("t", "m.room.topic", ""),
        member("a2", ALICE, sender=BOB),
        member("elsewhere", ALICE, OTHER),
    )
    current = by_key(await log.current(0, ROOM, Kind.EVENT))
    assert current == {
        ("m.room.member", ALICE): KeyedRef("m.room.member", ALICE, 5, 5, event_id("a2"), BOB, Kind.EVENT),
        ("m.room.member", BOB): KeyedRef("m.room.member", BOB, 3, 3, event_id("b1"), BOB, Kind.EVENT),
        ("m.room.topic", ""): KeyedRef("m.room.topic", "", 4, 4, event_id("t"), ALICE, Kind.EVENT),
    }
    assert await log.current(0, "!unknown:example.org", Kind.EVENT) == []
    assert await log.current(1, ROOM, Kind.EVENT) == []


async def test_a_message_and_an_entry_without_type_are_not_keyed(log: Log) -> None:
    await append(log, 0, message("m"), Entry(Kind.DEVICE_LIST, ALICE, key=ALICE))
    assert await log.current(0, ROOM, Kind.EVENT) == []
    assert await log.current(0, ALICE, Kind.DEVICE_LIST) == []


async def test_resolution_changes_room_state_without_an_event_of_its_own(log: Log) -> None:
    await append(
        log,
        0,
        state("old", "m.room.topic", ""),
        state("new", "m.room.topic", ""),
        state("gone", "m.room.name", ""),
        resolved("m.room.topic", "", event_id("old")),
        resolved("m.room.name", "", None),
    )
    current = by_key(await log.current(0, ROOM, Kind.EVENT))
    assert current["m.room.topic", ""] == KeyedRef(
        "m.room.topic", "", 4, 4, event_id("old"), None, Kind.STATE
    )
    assert current["m.room.name", ""] == KeyedRef("m.room.name", "", 5, 5, None, None, Kind.STATE)
    before = by_key(await log.current_at(0, ROOM, Kind.EVENT, 3))
    assert before["m.room.topic", ""].event_id == event_id("new")
    assert before["m.room.name", ""].event_id == event_id("gone")
    history = await log.keyed(0, ROOM, kind=Kind.EVENT, type="m.room.topic", key="", limit=9)
    assert seqs(history) == [1, 2, 4]


async def test_kinds_do_not_share_keys(log: Log) -> None:
    await append(
        log,
        USERS,
        account_data(ALICE, "x", "k"),
        Entry(Kind.NOTICE, ALICE, type="x", key="k"),
        Entry(Kind.RECEIPT, ALICE, type="x", key="k", target=event_id(1)),
    )
    for kind, seq in ((Kind.ACCOUNT_DATA, 1), (Kind.NOTICE, 2), (Kind.RECEIPT, 3)):
        assert [ref.seq for ref in await log.current(USERS, ALICE, kind)] == [seq]
        assert [ref.seq for ref in await log.current_at(USERS, ALICE, kind, 9)] == [seq]
        assert seqs(await log.keyed(USERS, ALICE, kind=kind, type="x", key="k", limit=9)) == [seq]
    assert (await log.current(USERS, ALICE, Kind.RECEIPT))[0].event_id == event_id(1)


async def test_backfilled_state_becomes_current_only_under_new_keys(log: Log) -> None:
    await append(log, 0, state("now", "m.room.topic", ""))
    await append(
        log,
        0,
        state("before", "m.room.topic", "", pos=-1),
        state("long gone", "m.room.name", "", pos=-2),
        state("longer gone", "m.room.name", "", pos=-3),
    )
    current = by_key(await log.current(0, ROOM, Kind.EVENT))
    assert current["m.room.topic", ""].event_id == event_id("now")
    assert current["m.room.name", ""] == KeyedRef(
        "m.room.name", "", 3, -2, event_id("long gone"), ALICE, Kind.EVENT
    )
    at = by_key(await log.current_at(0, ROOM, Kind.EVENT, -1))
    assert at["m.room.topic", ""].event_id == event_id("before")
    await append(log, 0, state("later still", "m.room.name", ""))
    current = by_key(await log.current(0, ROOM, Kind.EVENT))
    assert current["m.room.name", ""].event_id == event_id("later still")


async def test_state_of_a_gap_is_part_of_no_other_state(log: Log) -> None:
    """A gap of a timeline is filled later, with state that what came before it must not know."""
    topic = ("m.room.topic", "")
    noted = Entry(Kind.GAP_STATE, ROOM, type=topic[0], key=topic[1], sender=BOB, target=event_id("t"))
    await append(log, 0, message("m"), Entry(Kind.GAP, ROOM), state("now", *topic))
    await append(log, 0, replace(noted, pos=-40), message("fetched", pos=-39), replace(noted, pos=-60))
    assert by_key(await log.current(0, ROOM, Kind.EVENT))[topic].event_id == event_id("now")
    for position in (-39, 1, 2):
        assert await log.current_at(0, ROOM, Kind.EVENT, position) == []
    (ref,) = await log.current_at(0, ROOM, Kind.GAP_STATE, -39, [topic])
    assert ref == KeyedRef(*topic, 4, -40, event_id("t"), BOB, Kind.GAP_STATE)
    kept = await log.keyed(0, ROOM, kind=Kind.GAP_STATE, type=topic[0], key=topic[1], limit=9)
    assert [entry.position for entry in kept] == [-60, -40]
    assert [entry.seq for entry in await log.page(0, ROOM, kind=Kind.GAP, limit=9)] == [2]


async def test_state_at_each_position_is_what_was_newest_then(log: Log) -> None:
    users = [f"@user{i}:example.org" for i in range(7)]
    entries = [member(i, users[i * i % 7]) if i % 3 else message(i) for i in range(1, 61)]
    stored = await append(log, 0, *entries)
    for position in (0, 1, 2, 17, 42, 59, 60, 1000):
        expected = {
            ("m.room.member", str(entry.key)): entry.seq
            for entry in stored
            if entry.key is not None and entry.seq <= position
        }
        refs = await log.current_at(0, ROOM, Kind.EVENT, position)
        assert {key: ref.seq for key, ref in by_key(refs).items()} == expected
        asked = [("m.room.member", user) for user in users[:3]] + [("m.room.name", "")]
        some = await log.current_at(0, ROOM, Kind.EVENT, position, asked)
        assert {key: ref.seq for key, ref in by_key(some).items()} == {
            key: seq for key, seq in expected.items() if key in asked
        }
    assert await log.current_at(0, ROOM, Kind.EVENT, 60, []) == []


async def test_state_at_a_position_names_the_event_and_its_sender(log: Log) -> None:
    await append(log, 0, member("a", ALICE, sender=BOB), member("b", ALICE))
    expected = [KeyedRef("m.room.member", ALICE, 1, 1, event_id("a"), BOB, Kind.EVENT)]
    assert await log.current_at(0, ROOM, Kind.EVENT, 1) == expected
    assert await log.current_at(0, ROOM, Kind.EVENT, 1, [("m.room.member", ALICE)]) == expected


async def test_large_state_is_read_whole(log: Log) -> None:
    count = 2500
    stored = await append(log, 0, *(member(i, f"@user{i}:example.org") for i in range(count)))
    await append(log, 0, *(member(f"again {i}", f"@user{i}:example.org") for i in range(0, count, 2)))
    assert len(await log.current(0, ROOM, Kind.EVENT)) == count
    refs = by_key(await log.current_at(0, ROOM, Kind.EVENT, count))
    assert [refs["m.room.member", str(e.key)].seq for e in stored] == list(range(1, count + 1))
    keys = [("m.room.member", f"@user{i}:example.org") for i in range(0, count, 5)]
    assert len(await log.current_at(0, ROOM, Kind.EVENT, count // 2, keys)) == count // 10


async def test_a_users_memberships_are_found_in_all_rooms_of_a_shard(log: Log) -> None:
    await append(
        log,
        0,
        member("a", ALICE),
        member("b", BOB),
        member("c", ALICE, OTHER),
        state("not a membership", "m.room.topic", ALICE, "!third:example.org"),
        member("d", ALICE, OTHER),
        resolved("m.room.member", ALICE, event_id("a")),
    )
    await append(log, 1, member("e", ALICE, "!in-another-shard:example.org"))
    here = {entry.stream: entry for entry in await log.entries(0, [5, 6])}
    assert here[ROOM].kind is Kind.STATE
    assert here[OTHER].event_id == event_id("d")
    second = {entry.stream: entry for entry in await log.entries(1, [1])}

    async def found(shards: range, key: str = ALICE, kind: Kind = Kind.EVENT) -> dict[str, Entry]:
        return await log.streams_keyed(shards, kind, "m.room.member", key)

    assert await found(range(1)) == here
    assert await found(range(1, 2)) == second
    assert await found(range(2)) == here | second
    assert await found(range(2), "@nobody:example.org") == {}
    assert await found(range(2), kind=Kind.RECEIPT) == {}


async def test_a_devices_messages_are_walked_both_ways(log: Log) -> None:
    stored = await append(
        log, USERS, *(to_device(ALICE, "ONE" if i % 3 else "TWO", b"%d" % i) for i in range(30))
    )
    one = [entry for entry in stored if entry.key == "ONE"]

    async def keyed(**how: object) -> list[Entry]:
        kind, type, key = Kind.TO_DEVICE, "m.to_device", "ONE"
        return await log.keyed(USERS, ALICE, kind=kind, type=type, key=key, **how)  # type: ignore[arg-type]

    assert await keyed(limit=100) == one
    assert await keyed(limit=3) == one[:3]
    assert await keyed(limit=3, newest_first=True) == one[:-4:-1]
    assert await keyed(after=one[4].seq, limit=3) == one[5:8]
    assert await keyed(before=one[4].seq, newest_first=True, limit=2) == one[3:1:-1]
    assert await keyed(after=one[4].seq, before=one[7].seq, limit=9) == one[5:7]
    assert await log.keyed(USERS, ALICE, kind=Kind.TO_DEVICE, type="x", key="ONE", limit=9) == []
