"""What another program reads from Kafka, held against what the rooms' timelines are."""

import asyncio
from collections.abc import Sequence

import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition

from tests.replicas.cluster import ROOM_SHARDS
from tests.replicas.history import Json

PATIENCE_SECONDS = 60.0
"""For the relay to have caught up."""


class Published:
    """The records of the rooms' topic so far, each number once, as any program would read them.

    A topic may have been deleted and made anew: then it begins somewhere.
    """

    def __init__(self) -> None:
        self.rooms: dict[str, list[str]] = {}
        """Room → event ids in order."""
        self._seen: dict[int, int] = {}

    def take(self, value: bytes) -> None:
        record = orjson.loads(value)
        shard, seq = record["shard"], record["seq"]
        seen = self._seen.get(shard, seq - 1)
        if seq <= seen:
            return
        assert seq == seen + 1, f"shard {shard}: {seq} follows {seen}"
        self._seen[shard] = seq
        if record["kind"] == "event":
            self.rooms.setdefault(record["room_id"], []).append(record["event_id"])


async def check_published(
    bootstrap: str, topic: str, timelines: dict[str, Sequence[Json]], *, whole: bool
) -> None:
    """Every event of these rooms comes once, in the room's order; unless `whole`, perhaps only the last."""
    wanted = {room_id: [event["event_id"] for event in events] for room_id, events in timelines.items()}
    published = Published()
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap, enable_auto_commit=False, auto_offset_reset="earliest"
    )
    await consumer.start()
    try:
        consumer.assign([TopicPartition(topic, partition) for partition in range(ROOM_SHARDS)])
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not all(ids[-1] in published.rooms.get(room_id, ()) for room_id, ids in wanted.items()):
                for records in (await consumer.getmany(timeout_ms=500)).values():
                    for record in records:
                        published.take(record.value)
    except TimeoutError:
        there = {room_id: len(published.rooms.get(room_id, ())) for room_id in wanted}
        raise AssertionError(f"the last events did not come to Kafka, only so many: {there}") from None
    finally:
        await consumer.stop()
    for room_id, ids in wanted.items():
        there_now = published.rooms[room_id]
        told = ids if whole else ids[-len(there_now) :]
        assert there_now == told, f"{room_id}: Kafka has other events, or another order"
