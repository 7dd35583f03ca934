"""Gives records to Kafka, in order, and comes back when all the replicas of their partition have them.

A producer of the library never gives up on what it has been handed while the broker is away, and cannot be
used any more once the broker has refused something of it. So whatever goes wrong, the producer is dropped
with what it holds, and the next call begins with a fresh one: its caller knows what to send again.
"""

import asyncio
from collections.abc import Iterable
from itertools import chain
from typing import Any

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaConnectionError, KafkaError

from homeserver.bus.bus import BusUnavailable
from homeserver.bus.kafka.connection import Connection, explained
from homeserver.bus.kafka.records import Record

BATCH_BYTES = 256 * 1024
PUBLISH_SECONDS = 10.0
STOP_SECONDS = 3.0


class Publisher:
    """One producer at a time."""

    def __init__(self, connection: Connection, largest: int) -> None:
        """`largest`: bytes of the largest batch that the topics take."""
        self._connection = connection
        self._largest = largest
        self._producer: _Producer | None = None
        self._starting = asyncio.Lock()
        self._dropped: set[asyncio.Task[None]] = set()

    async def publish(self, place: TopicPartition, records: Iterable[Record]) -> None:
        """Append records to a partition; raises BusUnavailable when not all of them are known to be there."""
        try:
            async with asyncio.timeout(PUBLISH_SECONDS):
                producer = await self._started()
                try:
                    await self._publish(producer, place, records)
                except BaseException:
                    self._drop(producer)
                    raise
        except (KafkaError, OSError, TimeoutError) as error:
            raise BusUnavailable(explained(error)) from error

    def give_up(self) -> None:
        """Fail what is under way: the broker is away."""
        if self._producer is not None:
            self._drop(self._producer)

    async def close(self) -> None:
        """Deliver what is under way, unless the broker is away."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await producer.end(STOP_SECONDS)
        if self._dropped:
            await asyncio.wait(self._dropped)

    async def _started(self) -> "_Producer":
        async with self._starting:
            if self._producer is None:
                producer = _Producer(
                    **self._connection.options(),
                    enable_idempotence=True,
                    acks="all",
                    max_batch_size=min(BATCH_BYTES, self._largest),
                    max_request_size=self._largest,
                )
                try:
                    await producer.start()
                except BaseException:
                    await producer.end(0)
                    raise
                self._producer = producer
            return self._producer

    async def _publish(self, producer: "_Producer", place: TopicPartition, records: Iterable[Record]) -> None:
        sent = []
        batch = producer.create_batch()
        for record in records:
            # A record that is larger than a batch may be goes alone.
            if not _append(batch, record):
                sent.append(await producer.hand_over(batch, place))
                batch = producer.create_batch()
                _append(batch, record)
        sent.append(await producer.hand_over(batch, place))
        await asyncio.gather(*sent)

    def _drop(self, producer: "_Producer") -> None:
        if self._producer is producer:
            self._producer = None
            task = asyncio.create_task(producer.end(0), name="end-kafka-producer")
            self._dropped.add(task)
            task.add_done_callback(self._dropped.discard)


def _append(batch: Any, record: Record) -> bool:
    return (
        batch.append(timestamp=None, key=record.key, value=record.value, headers=record.headers) is not None
    )


class _Producer(AIOKafkaProducer):  # type: ignore[misc]  # the library is not typed
    """A producer that can be ended although the broker is away."""

    async def hand_over(self, batch: Any, place: TopicPartition) -> "asyncio.Future[Any]":
        """Queue a batch; the result is done when it is delivered."""
        if place.partition not in await self.partitions_for(place.topic):
            raise KafkaConnectionError(f"topic {place.topic} has no partition {place.partition}")
        future: asyncio.Future[Any] = await self.send_batch(batch, place.topic, partition=place.partition)
        # Whoever waited may have gone meanwhile.
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        return future

    async def end(self, seconds: float) -> None:
        """Stop, giving up what is not delivered after `seconds`; `stop` would wait for the broker."""
        accumulator = self._message_accumulator
        if self._sender.sender_task is not None:
            if seconds > 0:
                await asyncio.wait([asyncio.ensure_future(self.flush())], timeout=seconds)
            accumulator.reenqueue = lambda batch: None
            accumulator.fail_all(KafkaConnectionError("given up"))
            for batch in chain.from_iterable(accumulator._batches.values()):
                batch._drain_waiter.exception()
        await self.stop()
