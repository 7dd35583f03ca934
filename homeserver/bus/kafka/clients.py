"""Producer and consumer of the library, which can be ended though the broker is away."""

import asyncio
from itertools import chain
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.errors import KafkaConnectionError, KafkaError

from homeserver.tasks import end


class Producer(AIOKafkaProducer):  # type: ignore[misc]  # the library is not typed
    """A producer of batches."""

    async def start(self) -> None:
        """Connect. Raises KafkaError."""
        await super().start()
        task, sender = self._sender.sender_task, self._sender
        # The library's own callback is for producers with transactions, and breaks off without one.
        task.remove_done_callback(sender._fail_all)
        task.add_done_callback(self._fail_all)

    def _fail_all(self, sending: "asyncio.Task[Any]") -> None:
        """Nothing is sent any more: whoever waits, or hands over more, is told why."""
        if not sending.cancelled() and (error := sending.exception()) is not None:
            self._message_accumulator.fail_all(error)

    async def hand_over(self, batch: Any, place: TopicPartition) -> "asyncio.Future[Any]":
        """Queue a batch; the result is done when it is delivered. Raises KafkaError."""
        if place.partition not in await self.partitions_for(place.topic):
            raise KafkaConnectionError(f"topic {place.topic} has no partition {place.partition}")
        future: asyncio.Future[Any] = await self.send_batch(batch, place.topic, partition=place.partition)
        return future

    async def end(self, seconds: float) -> None:
        """Stop, giving up what is not delivered after `seconds`; `stop` would wait for the broker."""
        accumulator = self._message_accumulator
        if self._sender.sender_task is not None:
            if seconds > 0:
                await asyncio.wait([asyncio.ensure_future(self.flush())], timeout=seconds)
            batches = [*chain.from_iterable(accumulator._batches.values()), *accumulator._pending_batches]
            # What is queued again after a failure would count as pending no longer, and be waited for.
            accumulator._pending_batches.update(batches)
            accumulator.reenqueue = lambda batch: None
            accumulator.fail_all(KafkaConnectionError("given up"))
            for batch in batches:
                # Nobody may be left who waits for them.
                batch.future.exception()
                batch._drain_waiter.exception()
        await self.stop()


class Consumer(AIOKafkaConsumer):  # type: ignore[misc]  # the library is not typed
    """A consumer."""

    def check(self) -> None:
        """Raises KafkaError when nothing is fetched any more, of which the library tells nobody."""
        if self._fetcher is not None and self._fetcher.error_future.done():
            raise KafkaError("reading broke off")

    async def end(self) -> None:
        """Stop; `stop` itself may break off half-way when the broker is away."""
        stopping = asyncio.ensure_future(self.stop())
        await asyncio.wait([stopping])
        if not stopping.cancelled() and stopping.exception() is None:
            return
        if isinstance(self._coordinator, GroupCoordinator):
            await end((self._coordinator._heartbeat_task, self._coordinator._commit_refresh_task))
        if self._fetcher is not None:
            await end((self._fetcher._fetch_task, *self._fetcher._pending_tasks))
        await self._client.close()
