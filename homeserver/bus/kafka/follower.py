"""Reads all partitions from their ends on, and hands over what comes. What it misses is in the log."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import ConsumerStoppedError, KafkaError

from homeserver.bus.bus import BusUnavailable
from homeserver.bus.kafka.clients import Consumer
from homeserver.bus.kafka.connection import Connection, explained
from homeserver.bus.kafka.messages import Messages
from homeserver.bus.kafka.records import ForeignRecord, Records
from homeserver.bus.kafka.topics import MAX_RECORD_BYTES, Layout
from storage.log import Entry

log = structlog.get_logger(__name__)

FETCH_BYTES = MAX_RECORD_BYTES
RECORDS_AT_ONCE = 256
"""What is handed over without letting others have their turn."""
POLL_MS = 1_000
SPACING_SECONDS = 0.010
SPACING_PER_PARTITION = 0.000_25
BURST = 20
"""An answer of the broker costs several hundred microseconds and more with each partition, however little is
in it. So many answers may come one upon the other; in the long run they are so far apart, and what comes
meanwhile is in the next one."""
STREAM = 5
STREAM_SPACINGS = 5
"""Where answers bring as many records as this, they are further apart: few large ones cost the least."""
POSITION_SECONDS = 10.0
LAST_RECORD_SECONDS = 3.0
RETRY_SECONDS = 1.0

OnEntries = Callable[[int, Sequence[Entry]], None]


class Follower:
    """One consumer at a time, of no group: it decides itself where it reads."""

    def __init__(
        self,
        connection: Connection,
        layout: Layout,
        records: Records,
        on_entries: OnEntries,
        messages: Messages,
    ) -> None:
        self._connection = connection
        self._shards = layout.places()
        self._messages_at = TopicPartition(layout.messages, 0)
        self._records = records
        self._on_entries = on_entries
        self._messages = messages
        self._consumer: Consumer | None = None
        self._foreign: set[TopicPartition] = set()
        self._spacing = max(SPACING_SECONDS, SPACING_PER_PARTITION * (len(self._shards) + 1))
        self._due = 0.0

    async def start(self) -> None:
        """Stand at the ends of the partitions, in front of records of this store. Raises BusUnavailable."""
        try:
            consumer = await self._begin()
            await self._check_last_records(consumer)
        except (KafkaError, OSError, TimeoutError) as error:
            raise BusUnavailable(explained(error)) from error

    async def follow(self) -> None:
        """Hand over what comes, for ever."""
        while True:
            try:
                await self._follow(self._consumer or await self._begin())
            except ConsumerStoppedError:
                continue
            except (KafkaError, OSError, TimeoutError) as error:
                log.warning("cannot read from Kafka now", error=explained(error))
                await self.stop()
                await asyncio.sleep(RETRY_SECONDS)

    async def stop(self) -> None:
        """End the consumer; if it is followed, another one begins."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await consumer.end()

    async def _begin(self) -> Consumer:
        """Make a consumer that stands at the ends."""
        consumer = self._consumer = Consumer(
            **self._connection.options(),
            enable_auto_commit=False,
            fetch_max_bytes=FETCH_BYTES,
            # What was missed is read from the log, never from the beginning of what the topic has.
            auto_offset_reset="latest",
        )
        await consumer.start()
        places = (*self._shards, self._messages_at)
        consumer.assign(places)
        async with asyncio.timeout(POSITION_SECONDS):
            await consumer.seek_to_end(*places)
        return consumer

    async def _check_last_records(self, consumer: Consumer) -> None:
        """Refuse topics that somebody else writes to, or that a newer release has written to.

        Servers of another store in which nothing has happened yet send messages.
        """
        places = [*self._shards, self._messages_at]
        first, end = await asyncio.gather(consumer.beginning_offsets(places), consumer.end_offsets(places))
        filled = {place for place in places if end[place] > first[place]}
        for place in filled:
            consumer.seek(place, end[place] - 1)
        try:
            async with asyncio.timeout(LAST_RECORD_SECONDS):
                while filled:
                    for place, records in (await consumer.getmany(timeout_ms=POLL_MS)).items():
                        if place in filled:
                            if place == self._messages_at:
                                self._messages.check(records[0].value)
                            else:
                                self._records.check(dict(records[0].headers))
                            filled.discard(place)
        except TimeoutError:
            # Where offsets have no record (it was taken out by hand) there is nothing to check.
            return
        except ForeignRecord as error:
            raise BusUnavailable(
                f"topic {place.topic} holds {error}. Choose another bus.topic_prefix, or delete the topic if "
                "nobody needs it any more (it is created anew)"
            ) from error

    async def _follow(self, consumer: Consumer) -> None:
        while True:
            fetched = await consumer.getmany(timeout_ms=POLL_MS, max_records=RECORDS_AT_ONCE)
            consumer.check()
            for place, records in fetched.items():
                if place == self._messages_at:
                    self._messages.on_records(records)
                elif entries := self._entries(place, records):
                    self._on_entries(self._shards[place], entries)
            await asyncio.sleep(self._pause(sum(map(len, fetched.values()))))

    def _pause(self, records: int) -> float:
        """How many seconds to gather before the next answer, after one with so many records."""
        if records >= RECORDS_AT_ONCE:
            return 0
        now = asyncio.get_running_loop().time()
        if records >= STREAM:
            self._due = max(self._due, now) + STREAM_SPACINGS * self._spacing
        else:
            self._due = max(self._due + self._spacing, now - BURST * self._spacing)
        return max(0.0, self._due - now)

    def _entries(self, place: TopicPartition, records: Sequence[Any]) -> list[Entry]:
        entries = []
        for record in records:
            try:
                entry = self._records.entry(record.key, record.value, record.headers)
            except ForeignRecord as error:
                if place not in self._foreign:
                    self._foreign.add(place)
                    log.error("the topic holds what this server cannot read", place=place, error=str(error))
            else:
                if entry is not None:
                    entries.append(entry)
        return entries
