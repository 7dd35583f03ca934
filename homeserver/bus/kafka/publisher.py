"""Gives records to Kafka, in order, and comes back when all the replicas of their partition have them.

A producer of the library never gives up on what it has been handed while the broker is away, and cannot be
used any more once the broker has refused something of it. So whatever goes wrong, the producer is dropped
with what it holds, and the next call begins with a fresh one: its caller knows what to send again.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from homeserver.bus.bus import BusUnavailable
from homeserver.bus.kafka.clients import Producer
from homeserver.bus.kafka.connection import Connection, explained
from homeserver.bus.kafka.records import Record

BATCH_BYTES = 256 * 1024
PUBLISH_SECONDS = 10.0
STOP_SECONDS = 3.0


class Publisher:
    """One producer at a time."""

    def __init__(self, connection: Connection, largest: Callable[[], int]) -> None:
        """`largest`: bytes of the largest batch that the topics take now."""
        self._connection = connection
        self._largest = largest
        self._producer: Producer | None = None
        self._limits: set[asyncio.Timeout] = set()
        self._starting = asyncio.Lock()
        self._dropped: set[asyncio.Task[None]] = set()

    async def publish(self, place: TopicPartition, records: Iterable[Record]) -> None:
        """Append records to a partition; raises BusUnavailable when not all of them are known to be there."""
        try:
            async with asyncio.timeout(PUBLISH_SECONDS) as limit:
                self._limits.add(limit)
                try:
                    await self._publish(await self._started(), place, records)
                finally:
                    self._limits.discard(limit)
        except (KafkaError, OSError, TimeoutError) as error:
            raise BusUnavailable(explained(error)) from error

    def give_up(self) -> None:
        """Fail what is under way: the broker is away."""
        for limit in self._limits:
            limit.reschedule(0)

    async def close(self) -> None:
        """Deliver what is under way, unless the broker is away."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await producer.end(STOP_SECONDS)
        if self._dropped:
            await asyncio.wait(self._dropped)

    async def _started(self) -> Producer:
        async with self._starting:
            if self._producer is None:
                largest = self._largest()
                producer = Producer(
                    **self._connection.options(),
                    enable_idempotence=True,
                    acks="all",
                    max_batch_size=min(BATCH_BYTES, largest),
                    max_request_size=largest,
                )
                try:
                    await producer.start()
                except BaseException:
                    await producer.end(0)
                    raise
                self._producer = producer
            return self._producer

    async def _publish(self, producer: Producer, place: TopicPartition, records: Iterable[Record]) -> None:
        sent = []
        try:
            batch = producer.create_batch()
            for record in records:
                # A record that is larger than a batch may be goes alone.
                if not _append(batch, record):
                    sent.append(await producer.hand_over(batch, place))
                    batch = producer.create_batch()
                    _append(batch, record)
            sent.append(await producer.hand_over(batch, place))
            await asyncio.gather(*sent)
        except BaseException:
            for future in sent:
                future.cancel()
            self._drop(producer)
            raise

    def _drop(self, producer: Producer) -> None:
        if self._producer is producer:
            self._producer = None
            task = asyncio.create_task(producer.end(0), name="end-kafka-producer")
            self._dropped.add(task)
            task.add_done_callback(self._dropped.discard)


def _append(batch: Any, record: Record) -> bool:
    return (
        batch.append(timestamp=None, key=record.key, value=record.value, headers=record.headers) is not None
    )
