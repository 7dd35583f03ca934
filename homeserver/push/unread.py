"""Unread notifications: how many events since a user last read notify, by thread (spec: client-server
"Receiving notifications", "Marking notifications as read").

Counts are kept per user and room and brought forward when the user syncs, over the events that are
about to be sent anyway; nobody who is away costs anything. A new receipt counts anew from what was read, and
so does the redaction of something that was counted, if all that is unread is in memory.

What is counted anew costs a read of the log, and goes back `MAX_COUNTED` events at most. Whoever has not
read for longer than that has their counts stored once in `STORED_EVERY` events, so that after a restart
they go on from there.
"""

import asyncio
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from homeserver.protocol.push_evaluation import SharedVerdict
from homeserver.push.rules import UserPushRules, rules_version
from homeserver.push.unread_tallies import UnreadTallies
from homeserver.push.verdicts import Verdicts
from homeserver.rooms.room import Room
from homeserver.rooms.room_event import RoomEvent
from homeserver.rooms.rooms import Rooms
from homeserver.rooms.threads import MAIN, thread_in_memory, thread_of
from homeserver.rooms.visibility import Visibility
from homeserver.users.ignoring import ignored_by
from homeserver.users.users import User
from storage.records.push import UnreadTally

MAX_COUNTED = 1_000
STORED_EVERY = 500
PAGE = 500
MAX_THREADS = 1_000
"""Counts of more threads than these are not stored."""
KEPT = 100_000
ITEM_BYTES = 400
"""What an event takes that is ready to be counted, roughly."""
READ_ITEM_BYTES = 1_500
"""The same of one that is in memory for this alone."""


class Counts(msgspec.Struct):
    """Notifying and highlighting events of one thread."""

    notifications: int = 0
    highlights: int = 0


class UnreadCounts(msgspec.Struct):
    """Of one user in one room; `threads` has the main timeline under "main"."""

    threads: dict[str, Counts] = {}

    def total(self) -> Counts:
        """Over all threads, for clients that know none."""
        every = Counts()
        for counts in self.threads.values():
            every.notifications += counts.notifications
            every.highlights += counts.highlights
        return every

    def main(self) -> Counts:
        return self.threads.get(MAIN, _NONE)

    def apart(self) -> Mapping[str, Counts]:
        """Threads other than the main timeline that have any."""
        return {
            root: counts for root, counts in self.threads.items() if root != MAIN and counts.notifications
        }


_NONE = Counts()


class _Tally(msgspec.Struct):
    """Counts of the events from `start` up to `upto`, for one stay, one set of receipts and rules."""

    since: int
    start: int
    upto: int
    receipts: int
    version: int
    counts: UnreadCounts
    unstored: int = 0
    """How many events were counted that the stored tally, if any, does not know of."""


class _Item(NamedTuple):
    """An event, as far as it counts for everybody alike."""

    position: int
    sender: str
    thread: str
    event: RoomEvent
    verdict: SharedVerdict | None
    """Of the default rules. None of what is redacted: it notifies nobody."""
    newcomers: Sequence[str]
    """Who may not see it."""


class _News(NamedTuple):
    """Events of a room, oldest first, ready to be counted."""

    items: Sequence[_Item]
    redacts: frozenset[str]
    """What they redact."""

    def begins_above(self, position: int) -> bool:
        """Whether there may be events between a position and this page of the log."""
        return len(self.items) == PAGE and self.items[0].position > position + 1


class Unread:
    """The unread counts of local users."""

    def __init__(
        self,
        rooms: Rooms,
        stored: UnreadTallies,
        visibility: Visibility,
        rules: UserPushRules,
        verdicts: Verdicts,
    ) -> None:
        self._rooms = rooms
        self._stored = stored
        self._visibility = visibility
        self._rules = rules
        self._verdicts = verdicts
        self._tallies: OrderedDict[tuple[str, str], _Tally] = OrderedDict()

    async def counts(self, user: User, room: Room) -> UnreadCounts:
        """The counts up to the room's newest event."""
        key = (user.user_id, room.room_id)
        version = rules_version(user)
        receipts = room.receipt_seqs.get(user.user_id, 0)
        ref = user.memberships.get(room.room_id)
        since = ref.since if ref is not None else 0
        tally = self._tallies.get(key)
        if tally is None or (tally.since, tally.receipts, tally.version) != (since, receipts, version):
            start = read_upto(room, user.user_id).get(None, 0)
            if since > start:
                start = max(start, await self._visibility.joined_since(room, user))
            tally = _Tally(since, start, start, receipts, version, UnreadCounts({}))
            self._tallies[key] = tally
            if len(self._tallies) > KEPT:
                self._tallies.popitem(last=False)
        newest = room.timeline[-1].position if room.timeline else 0
        if tally.upto < newest:
            await self._count(user, room, tally)
        return tally.counts

    async def _count(self, user: User, room: Room, tally: _Tally) -> None:
        """Bring a tally forward to the room's newest event."""
        news = await self._news(user, room, tally)
        anew = _takes_back(room, tally, news)
        if anew:
            news = await self._shared_news(room, tally.start)
        rules, ignored = self._rules.of(user), ignored_by(user)
        marks = read_upto(room, user.user_id) if room.receipt_seqs.get(user.user_id) else {}
        default = rules.is_default_in(room.room_id)
        # Nothing is waited for from here on: another poll of the user's may count the same events.
        if anew:
            tally.counts, tally.upto = UnreadCounts({}), tally.start
        threads, upto = tally.counts.threads, tally.upto
        for position, sender, thread, event, shared, newcomers in news.items:
            if position <= upto:
                continue
            if sender == user.user_id:
                # Who writes has read what stands before (spec: sending an event moves the receipt).
                threads.pop(thread, None)
            elif user.user_id in newcomers:
                continue
            elif shared is not None and sender not in ignored and position > marks.get(thread, 0):
                verdict = shared.of(user.user_id) if default else self._verdicts.of(room, event, rules)
                if verdict.notify:
                    counts = threads.setdefault(thread, Counts())
                    counts.notifications += 1
                    counts.highlights += verdict.highlight
        if news.items and news.items[-1].position > upto:
            tally.upto = news.items[-1].position
            tally.unstored += len(news.items)
            if tally.unstored >= STORED_EVERY:
                self._store(user, room, tally)

    async def _news(self, user: User, room: Room, tally: _Tally) -> _News:
        """What the tally does not know of; only the newest if that is very much."""
        after = room.timeline_after
        if tally.upto >= after:
            return await self._shared_news(room, tally.upto)
        pages = [await self._shared_news(room, after), await self._page(room, after + 1)]
        if pages[-1].begins_above(tally.upto):
            await self._restore(user, room, tally)
        while pages[-1].begins_above(tally.upto) and len(pages) <= MAX_COUNTED // PAGE:
            pages.append(await self._page(room, pages[-1].items[0].position))
        pages.reverse()
        items = [item for page in pages for item in page.items]
        items = items[bisect_right(items, tally.upto, key=_position) :]
        return _News(items, frozenset().union(*(page.redacts for page in pages)))

    async def _shared_news(self, room: Room, after: int) -> _News:
        """What happened in a room after a position that is in memory, worked out once for all who ask."""
        key = ("unread", after)
        news = room.fragments.get(key, _News)
        if news is None:
            seen = room.last_seq
            news = await self._made_news(room, room.timeline[room.first_after(after) :])
            if room.last_seq == seen:
                room.fragments.keep(key, news, ITEM_BYTES * len(news.items))
        return news

    async def _page(self, room: Room, before: int) -> _News:
        """The newest that is not in memory any more, read once for all who ask meanwhile."""
        key = ("unread before", before)
        reading = room.fragments.get(key, asyncio.Future)
        if reading is None or _has_failed(reading):
            reading = asyncio.ensure_future(self._read_page(room, before))
            room.fragments.keep(key, reading, READ_ITEM_BYTES * PAGE)
        page: _News = await asyncio.shield(reading)
        return page

    async def _read_page(self, room: Room, before: int) -> _News:
        page = await self._rooms.stored.page(room.room_id, before=before, newest_first=True, limit=PAGE)
        page.reverse()
        return await self._made_news(room, page)

    async def _made_news(self, room: Room, events: Sequence[RoomEvent]) -> _News:
        items: list[_Item] = []
        for event in events:
            thread = thread_in_memory(room, event)
            if thread is None:
                thread = await thread_of(self._rooms.stored, room, event)
            verdict = self._verdicts.shared(room, event) if not event.is_redacted else None
            items.append(_Item(event.position, event.sender, thread, event, verdict, event.newcomers))
        return _News(items, frozenset(event.redacts for event in events if event.redacts is not None))

    # Stored tallies

    async def _restore(self, user: User, room: Room, tally: _Tally) -> None:
        """Go on from the stored tally, if it is of the same receipts and rules."""
        stored = await self._stored.get(user.user_id, room.room_id)
        if stored is None or stored.upto <= tally.upto:
            return
        if (stored.receipts, stored.rules) == (tally.receipts, tally.version):
            tally.upto = stored.upto
            tally.counts = UnreadCounts({root: Counts(*counts) for root, counts in stored.threads.items()})

    def _store(self, user: User, room: Room, tally: _Tally) -> None:
        threads = {root: (c.notifications, c.highlights) for root, c in tally.counts.threads.items()}
        if len(threads) > MAX_THREADS:
            return
        tally.unstored = 0
        self._stored.note(
            UnreadTally(
                user_id=user.user_id,
                room_id=room.room_id,
                upto=tally.upto,
                receipts=tally.receipts,
                rules=tally.version,
                threads=threads,
            )
        )


def _has_failed(reading: asyncio.Future[_News]) -> bool:
    return reading.done() and reading.exception() is not None


def _takes_back(room: Room, tally: _Tally, news: _News) -> bool:
    """Whether something of it redacts what was counted, and all of that can be counted anew."""
    if not news.redacts or tally.start < room.timeline_after:
        return False
    counted = room.timeline[room.first_after(tally.start) : room.first_after(tally.upto)]
    return any(event.event_id in news.redacts for event in counted)


def _position(item: _Item) -> int:
    return item.position


def read_upto(room: Room, user_id: str) -> dict[str | None, int]:
    """Thread (None: the whole room) → position up to which the user has read, by either kind of receipt."""
    marks: dict[str | None, int] = {}
    for (_, thread), receipt in room.receipts.get(user_id, {}).items():
        marks[thread] = max(marks.get(thread, 0), receipt.position)
    return marks
