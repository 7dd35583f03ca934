"""Writers on a shard of a real store: what others have appended, or twice, turns nobody away."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from homeserver import shard_writer as module
from homeserver.errors import MatrixError
from homeserver.shard_writer import Append, Appended, Drafts, ShardWriter
from storage.errors import Conflict, StoreUnavailable
from storage.log import Entry, Log
from storage.store import Store
from tests.storage.entries import append, event_id, message


class Seen:
    """What a writer told of, in order."""

    def __init__(self) -> None:
        self.ids: list[str | None] = []

    def on_entries(self, shard: int, appended: Sequence[Appended]) -> None:
        self.ids += [item.entry.event_id for item in appended]


class Passing:
    """A log of which a test does some things otherwise."""

    def __init__(self, of: Log) -> None:
        self.of = of

    def __getattr__(self, name: str) -> Any:
        return getattr(self.of, name)


class SlowToAnswer(Passing):
    """The answer to an append takes a while, in which other things happen."""

    def __init__(self, of: Log, meanwhile: Callable[[], Awaitable[None]]) -> None:
        super().__init__(of)
        self._meanwhile = meanwhile

    async def append(self, shard: int, expected: int, entries: Sequence[Entry]) -> int:
        try:
            return await self.of.append(shard, expected, entries)
        except Conflict:
            await self._meanwhile()
            raise


class Behind(Passing):
    """Shows only the first entries until it was asked a few times, as several servers may after a commit."""

    def __init__(self, of: Log, shown: int, looks: int) -> None:
        super().__init__(of)
        self._shown = shown
        self.looks = looks

    async def append(self, shard: int, expected: int, entries: Sequence[Entry]) -> int:
        if self.looks > 0:
            raise Conflict(shard, self._shown)
        return await self.of.append(shard, expected, entries)

    async def tail(self, shard: int) -> int:
        self.looks -= 1
        return await self.of.tail(shard) if self.looks <= 0 else self._shown

    async def read(self, shard: int, after: int, limit: int) -> list[Entry]:
        entries = await self.of.read(shard, after, limit)
        return entries if self.looks <= 0 else [entry for entry in entries if entry.seq <= self._shown]


def writer_on(log: Any, seen: Seen, tail: int = 0) -> ShardWriter:
    return ShardWriter(0, log, tail, seen.on_entries, lambda shard, tail: None)


async def test_what_is_followed_while_an_append_is_refused_does_no_harm(store: Store) -> None:
    first = await append(store.log, 0, message("one"))
    seen = Seen()

    async def others_go_on() -> None:
        later = await append(store.log, 0, message("two"), message("three"))
        assert writer.follow([*first, *later])

    writer = writer_on(SlowToAnswer(store.log, others_go_on), seen)
    assert await writer.submit(Append([message("mine")])) == 4
    assert seen.ids == [event_id(name) for name in ("one", "two", "three", "mine")]


class OnlyAfter(Append):
    """May be appended once another entry has been seen."""

    def __init__(self, entry: Entry, other: str, seen: Seen) -> None:
        super().__init__([entry])
        self._other = other
        self._seen = seen

    def build(self, drafts: Drafts, next_seq: int) -> list[Appended]:
        if event_id(self._other) not in self._seen.ids:
            raise MatrixError(403, "M_FORBIDDEN", f"not before {self._other}")
        return super().build(drafts, next_seq)


async def test_nothing_is_refused_upon_a_state_that_others_have_changed(store: Store) -> None:
    """Who joined at the last owner of a shard may speak at the next one, which has not heard of it yet."""
    await append(store.log, 0, message("join"))
    seen = Seen()
    writer = writer_on(store.log, seen)
    before = writer.submit(Append([message("before")]))
    allowed = writer.submit(OnlyAfter(message("allowed"), "join", seen))
    refused = writer.submit(OnlyAfter(message("refused"), "ban", seen))
    with pytest.raises(MatrixError, match="not before ban"):
        await refused
    assert (await before, await allowed) == (2, 3)
    assert seen.ids == [event_id(name) for name in ("join", "before", "allowed")]


class Unless(Append):
    """Has nothing to do before another entry has been seen."""

    def __init__(self, entry: Entry, other: str, seen: Seen) -> None:
        super().__init__([entry])
        self._other = other
        self._seen = seen

    def build(self, drafts: Drafts, next_seq: int) -> list[Appended]:
        return super().build(drafts, next_seq) if event_id(self._other) in self._seen.ids else []


async def test_nothing_is_taken_for_done_upon_a_state_that_others_have_changed(store: Store) -> None:
    """What is to be set was set already, as far as this replica has heard; another has just taken it back."""
    await append(store.log, 0, message("taken back"))
    seen = Seen()
    writer = writer_on(store.log, seen)
    await writer.submit(Unless(message("set again"), "taken back", seen))
    assert seen.ids == [event_id(name) for name in ("taken back", "set again")]


class Ban(Append):
    """Nobody may say anything after it."""

    def build(self, drafts: Drafts, next_seq: int) -> list[Appended]:
        drafts["banned"] = True
        return super().build(drafts, next_seq)


class Said(Append):
    def build(self, drafts: Drafts, next_seq: int) -> list[Appended]:
        if "banned" in drafts:
            raise MatrixError(403, "M_FORBIDDEN", "banned")
        return super().build(drafts, next_seq)


class FailsOnce(Passing):
    """Cannot take the first entries that it is given."""

    def __init__(self, of: Log, entries: int) -> None:
        super().__init__(of)
        self._left = entries

    async def append(self, shard: int, expected: int, entries: Sequence[Entry]) -> int:
        if self._left > 0:
            self._left -= len(entries)
            raise StoreUnavailable("away")
        return await self.of.append(shard, expected, entries)


async def test_nothing_is_refused_upon_what_the_store_did_not_take(store: Store) -> None:
    """The ban failed: whoever spoke behind it hears that the store was away, and not that they are banned."""
    writer = writer_on(FailsOnce(store.log, entries=1), Seen())
    outcomes = await asyncio.gather(
        writer.submit(Ban([message("ban")])),
        writer.submit(Said([message("said")])),
        return_exceptions=True,
    )
    assert [error.status for error in outcomes if isinstance(error, MatrixError)] == [503, 503]
    assert await store.log.tail(0) == 0


async def test_nothing_is_refused_upon_what_was_there_before_in_another_form(store: Store) -> None:
    """A ban that is a second try changes nothing any more; what follows it is checked again without."""
    await append(store.log, 0, message("ban", txn=b"x" * 16))
    writer = writer_on(store.log, Seen(), tail=1)
    banned = writer.submit(Ban([message("again", txn=b"x" * 16)]))
    said = writer.submit(Said([message("said")]))
    assert (await banned, await said) == (1, 2)


async def test_what_others_told_of_is_waited_for_when_the_log_does_not_show_it_yet(store: Store) -> None:
    told = await append(store.log, 0, message("one"), message("two"))
    seen = Seen()
    writer = writer_on(Behind(store.log, shown=1, looks=3), seen)
    assert writer.follow(told)
    assert await writer.submit(Append([message("mine")])) == 3
    assert seen.ids == [event_id(name) for name in ("one", "two", "mine")]


async def test_a_log_that_has_lost_entries_takes_no_more(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOST_SECONDS", 0.1)
    told = await append(store.log, 0, message("one"), message("two"))
    writer = writer_on(Behind(store.log, shown=1, looks=1_000_000), Seen())
    assert writer.follow(told)
    with pytest.raises(MatrixError) as refused:
        await writer.submit(Append([message("mine")]))
    assert refused.value.status == 503
    assert await store.log.tail(0) == 2


async def test_what_is_double_disturbs_no_other_of_its_batch(store: Store) -> None:
    """A client's second try, between messages that wait for the same commit."""
    await append(store.log, 0, message("sent", txn=b"x" * 16))
    seen = Seen()
    writer = writer_on(store.log, seen, tail=1)
    waiting = [
        writer.submit(Append(entries))
        for entries in (
            [message("one")],
            [message("sent again", txn=b"x" * 16)],
            [message("two"), message("three")],
            [message("one", body=b"{}")],
            [message("four")],
        )
    ]
    assert [await each for each in waiting] == [2, 1, 4, 2, 5]
    assert seen.ids == [event_id(name) for name in ("one", "two", "three", "four")]
    assert [entry.event_id for entry in await store.log.read(0, 1, 10)] == seen.ids


async def test_an_entry_that_cannot_be_written_down_fails_alone(store: Store) -> None:
    writer = writer_on(store.log, Seen())
    names = ("one", "half a surrogate pair", "two")
    entries = [
        message(name, type="\ud800" if name.startswith("half") else "m.room.message") for name in names
    ]
    outcomes = await asyncio.gather(
        *(writer.submit(Append([entry])) for entry in entries), return_exceptions=True
    )
    assert outcomes[::2] == [1, 2]
    assert isinstance(outcomes[1], Exception)


@pytest.mark.parametrize("told", [(1, 3), (1, 2, 1, 2, 3), (1, 2, 3, 2), (1, 3, 1)])
async def test_what_is_told_with_gaps_or_again_is_applied_once_and_whole(
    store: Store, told: tuple[int, ...]
) -> None:
    """A bus gives out many at once: among them it may lack what was too large for it, and repeat the rest."""
    entries = await append(store.log, 0, message("1"), message("2"), message("3"))
    seen = Seen()
    writer = writer_on(store.log, seen)
    if not writer.follow([entries[seq - 1] for seq in told]):
        await writer.catch_up()
    assert seen.ids == [event_id("1"), event_id("2"), event_id("3")]
    assert writer.tail == 3
