"""Unread notifications: how many events since a user last read notify, by thread (spec: client-server
"Receiving notifications", "Marking notifications as read").

Counts are kept per user and room and brought forward when the user syncs, over the events that are
about to be sent anyway; nobody who is away costs anything. A new receipt counts anew from what was
read. Very old unread events count up to `MAX_COUNTED`.
"""

import asyncio
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Mapping

import msgspec

from homeserver.protocol.push_evaluation import CompiledRules
from homeserver.push.rules import UserPushRules
from homeserver.push.verdicts import Verdicts
from homeserver.rooms.room import Room
from homeserver.rooms.room_event import RoomEvent
from homeserver.rooms.rooms import Rooms
from homeserver.rooms.threads import MAIN, thread_in_memory, thread_of
from homeserver.users.users import User

MAX_COUNTED = 500
KEPT = 100_000


class Counts(msgspec.Struct):
    """Notifying and highlighting events of one thread."""

    notifications: int = 0
    highlights: int = 0


class UnreadCounts(msgspec.Struct):
    """Of one user in one room; `threads` has the main timeline under "main"."""

    threads: dict[str, Counts] = {}

    def total(self) -> Counts:
        """Over all threads, for clients that know none."""
        every = self.threads.values()
        return Counts(sum(c.notifications for c in every), sum(c.highlights for c in every))

    def main(self) -> Counts:
        return self.threads.get(MAIN, _NONE)

    def apart(self) -> Mapping[str, Counts]:
        """Threads other than the main timeline that have any."""
        return {
            root: counts for root, counts in self.threads.items() if root != MAIN and counts.notifications
        }


_NONE = Counts()


class _Tally(msgspec.Struct):
    """Counts of the events up to `upto`, for one set of receipts and rules."""

    upto: int
    receipts: int
    rules: CompiledRules
    counts: UnreadCounts


class Unread:
    """The unread counts of local users."""

    def __init__(self, rooms: Rooms, rules: UserPushRules, verdicts: Verdicts) -> None:
        self._rooms = rooms
        self._rules = rules
        self._verdicts = verdicts
        self._tallies: OrderedDict[tuple[str, str], _Tally] = OrderedDict()

    async def counts(self, user: User, room: Room) -> UnreadCounts:
        """The counts up to the room's newest event."""
        key = (user.user_id, room.room_id)
        rules = self._rules.of(user)
        receipts = room.receipt_seqs.get(user.user_id, 0)
        tally = self._tallies.get(key)
        if tally is None or tally.receipts != receipts or tally.rules is not rules:
            ref = user.memberships.get(room.room_id)
            joined_at = ref.since if ref is not None else 0
            start = max(read_upto(room, user.user_id).get(None, 0), joined_at)
            tally = _Tally(start, receipts, rules, UnreadCounts({}))
            self._tallies[key] = tally
            if len(self._tallies) > KEPT:
                self._tallies.popitem(last=False)
        newest = room.timeline[-1].position if room.timeline else 0
        if tally.upto < newest:
            await self._count(user, room, tally, newest)
        return tally.counts

    async def _count(self, user: User, room: Room, tally: _Tally, newest: int) -> None:
        events = await self._events(room, tally.upto)
        tally.upto = newest
        marks = read_upto(room, user.user_id) if room.receipt_seqs.get(user.user_id) else {}
        threads = tally.counts.threads
        for event in events:
            own = event.sender == user.user_id
            verdict = None if own else self._verdicts.of(room, event, tally.rules)
            if verdict is not None and not verdict.notify:
                continue
            thread = thread_in_memory(room, event)
            if thread is None:
                thread = await thread_of(self._rooms.stored, room, event)
            if verdict is None:
                # Who writes has read what stands before (spec: sending an event moves the receipt).
                threads.pop(thread, None)
            elif event.position > marks.get(thread, 0):
                counts = threads.setdefault(thread, Counts())
                counts.notifications += 1
                counts.highlights += verdict.highlight

    async def _events(self, room: Room, after: int) -> list[RoomEvent]:
        if after >= room.timeline_after:
            return room.timeline[room.first_after(after) :]
        older = await self._older(room)
        return older[bisect_right(older, after, key=_position) :] + room.timeline

    async def _older(self, room: Room) -> list[RoomEvent]:
        """The newest events that are not in memory any more, read once for all who ask meanwhile."""
        kept = room.fragments.get(_OLDER)
        if isinstance(kept, asyncio.Future):
            older: list[RoomEvent] = await asyncio.shield(kept)
            return older
        reading = asyncio.ensure_future(self._read_older(room, room.timeline_after))
        room.fragments[_OLDER] = reading
        return await asyncio.shield(reading)

    async def _read_older(self, room: Room, upto: int) -> list[RoomEvent]:
        page = await self._rooms.stored.page(
            room.room_id, before=upto + 1, newest_first=True, limit=MAX_COUNTED
        )
        page.reverse()
        return page


_OLDER = "older events"


def _position(event: RoomEvent) -> int:
    return event.position


def read_upto(room: Room, user_id: str) -> dict[str | None, int]:
    """Thread (None: the whole room) → position up to which the user has read, by either kind of receipt."""
    marks: dict[str | None, int] = {}
    for (_, thread), receipt in room.receipts.get(user_id, {}).items():
        marks[thread] = max(marks.get(thread, 0), receipt.position)
    return marks
