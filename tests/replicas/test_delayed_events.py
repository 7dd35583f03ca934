"""Delayed events (MSC4140) on MongoDB while a replica dies: each is sent once, and none is forgotten."""

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import aiohttp
import pytest

from tests.real_parts import mongodb
from tests.replicas import history
from tests.replicas.cluster import Cluster
from tests.waiting import until

SEED = 20261122
ROOMS = 6
EVENTS_PER_ROOM = 15
LATEST_MS = 4_000
DELAYED = "/_matrix/client/unstable/org.matrix.msc4140/delayed_events"


@pytest.fixture
async def cluster(tmp_path: Path, kafka_bootstrap: str) -> AsyncIterator[Cluster]:
    name = f"delayed{random.randrange(1 << 30)}"
    storage = mongodb.uri().replace("/?", f"/{name}?")
    cluster = Cluster(tmp_path, 2, storage=storage, bus=f"kafka://{kafka_bootstrap}", prefix=name)
    await asyncio.to_thread(cluster.start)
    yield cluster
    await asyncio.to_thread(cluster.kill)
    mongodb.drop(storage)


async def test_each_event_is_sent_once_while_a_replica_dies(cluster: Cluster) -> None:
    rng = random.Random(SEED)
    async with aiohttp.ClientSession() as http:
        alice = await history.Client(http, cluster.urls, rng).register("alice")
        rooms = [(await alice.surely("POST", "/createRoom", {}))["room_id"] for _ in range(ROOMS)]
        waiting: dict[str, str] = {}
        for number in range(EVENTS_PER_ROOM):
            for room_id in rooms:
                path = f"/rooms/{quote(room_id)}/send/m.room.message/{number}"
                content = {"msgtype": "m.text", "body": str(number)}
                query = {"org.matrix.msc4140.delay": str(rng.randrange(1_000, LATEST_MS))}
                answer = await alice.surely("PUT", path, content, **query)
                waiting[answer["delay_id"]] = room_id
        dies = cluster.replicas[0]
        await asyncio.to_thread(dies.kill)

        async def ended() -> bool:
            for delay_id in list(waiting):
                event = await alice.surely("GET", f"{DELAYED}/{delay_id}")
                if "finalised_ts" not in event:
                    return False
                assert "event_id" in event, event
                del waiting[delay_id]
            return True

        await until(ended, "the other replica sent them all", seconds=60)
        await asyncio.to_thread(dies.start)
        for room_id in rooms:
            for url in cluster.urls:
                told = await alice.at(url).timeline(room_id)
                bodies = [event["content"].get("body") for event in told if event["type"] == "m.room.message"]
                assert sorted(bodies, key=int) == [str(number) for number in range(EVENTS_PER_ROOM)]
