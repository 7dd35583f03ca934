"""Sends delayed events when their time has come.

The owner of a room's shard sees to it, so that one replica of several does; what two take in hand all the
same is in the room once. It sleeps until the next event is due, is told of those that are scheduled at other
replicas, and looks for what it has missed: shards that it was given, and what came due while nobody ran.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import groupby
from operator import attrgetter

import structlog

from homeserver.bus.to_others import ToOthers
from homeserver.clock import Clock
from homeserver.rooms.delayed_events import DelayedEvents
from storage.collection import Collection
from storage.errors import StoreError, StoreUnavailable
from storage.records.delayed_events import DelayedEvent

log = structlog.get_logger(__name__)

DUE = "delayed_event"
"""Kind of message: an event was scheduled for then (ms since 1970)."""
LOOK_MS = 5_000
RETRY_MS = 1_000
PAGE = 100
NEVER = 1 << 62

_by_room = attrgetter("room_id")


class DueEvents:
    """The clock of delayed events."""

    def __init__(
        self,
        records: Collection[DelayedEvent],
        delayed: DelayedEvents,
        own_shards: Callable[[], Iterable[int]],
        to_others: ToOthers,
        now: Clock,
    ) -> None:
        self._records = records
        self._delayed = delayed
        self._own_shards = own_shards
        self._to_others = to_others
        self._now = now
        self._wakes_at = NEVER
        self._sooner = asyncio.Event()
        to_others.subscribe(DUE, lambda body: self._expect(int(body)))

    def scheduled(self, due: int) -> None:
        """An event was scheduled for then."""
        self._expect(due)
        self._to_others.tell(DUE, b"%d" % due)

    def _expect(self, due: int) -> None:
        if due < self._wakes_at:
            self._sooner.set()

    async def keep_sending(self) -> None:
        """Send what is due, until cancelled."""
        while True:
            self._wakes_at = NEVER
            self._sooner.clear()
            try:
                self._wakes_at = await self.send()
            except StoreError as error:
                log.warning("delayed events wait for the store", error=str(error))
                self._wakes_at = self._now() + RETRY_MS
            with suppress(TimeoutError):
                async with asyncio.timeout(max(self._wakes_at - self._now(), 0) / 1000):
                    await self._sooner.wait()

    async def send(self) -> int:
        """Send what is due, in the order of time in each room; when to do so next. Raises StoreError."""
        wakes_at = self._now() + LOOK_MS
        for shard in self._own_shards():
            first = await self._records.find("by_due", (shard,), limit=PAGE)
            now = self._now()
            due = [event for event in first if event.due is not None and event.due <= now]
            rooms = groupby(sorted(due, key=_by_room), _by_room)
            sent = await asyncio.gather(*(self._send_in_order(list(events)) for _, events in rooms))
            if not all(sent):
                wakes_at = min(wakes_at, now + RETRY_MS)
            elif len(due) < len(first):
                wakes_at = min(wakes_at, first[len(due)].due or NEVER)
            elif len(due) == PAGE:
                wakes_at = now
        return wakes_at

    async def _send_in_order(self, events: Sequence[DelayedEvent]) -> bool:
        """Whether all of them are done with."""
        try:
            for event in events:
                if not await self._delayed.send_due(event):
                    return False
        except StoreUnavailable as error:
            log.warning("delayed events wait for the store", error=str(error))
            return False
        return True
