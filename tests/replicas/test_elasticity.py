"""Replicas come and go behind a real proxy, and the people who are talking notice nothing."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from tests.real_parts import mongodb
from tests.real_parts.proxy import proxy_before
from tests.replicas import history, next_release
from tests.replicas.cluster import Cluster, Replica

TALK_SECONDS = 1.0
NOTICED_SECONDS = 3.0
"""By then the proxy knows that a replica has come, or gone."""
NEXT_RELEASE = "tests.replicas.next_release"


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        yield session


@pytest.fixture
async def cluster(tmp_path: Path, kafka_bootstrap: str) -> AsyncIterator[Cluster]:
    name = f"elastic{random.randrange(1 << 30)}"
    storage = mongodb.uri().replace("/?", f"/{name}?")
    cluster = Cluster(tmp_path, 3, storage=storage, bus=f"kafka://{kafka_bootstrap}", prefix=name)
    yield cluster
    await asyncio.to_thread(cluster.stop)


async def talk(over: asyncio.Event, *talkers: history.Talker | history.Watcher) -> None:
    async with asyncio.TaskGroup() as tasks:
        for talker in talkers:
            tasks.create_task(talker.run(over))


@asynccontextmanager
async def talking(
    cluster: Cluster, http: aiohttp.ClientSession, *, people: int
) -> AsyncIterator[list[history.Client]]:
    """So many people talk in one room by way of a proxy, until the end; then nothing of it is missing."""
    addresses = [f"127.0.0.1:{replica.port}" for replica in cluster.replicas]
    with proxy_before(addresses, "haproxy") as proxy:
        talks = [
            await history.Client(http, [proxy.url], random.Random(n)).register(f"p{n}") for n in range(people)
        ]
        room = (await talks[0].surely("POST", "/createRoom", {"preset": "public_chat"}))["room_id"]
        for other in talks[1:]:
            await other.surely("POST", f"/rooms/{room}/join", {})
        talkers = [history.Talker(person, room) for person in talks]
        watcher = history.Watcher(talks[0])
        await watcher.sync(0)
        over = asyncio.Event()
        talking = asyncio.create_task(talk(over, *talkers, watcher))
        await asyncio.sleep(TALK_SECONDS)
        yield talks
        await asyncio.sleep(TALK_SECONDS)
        over.set()
        await talking
        timeline = await talks[0].timeline(room)
        while timeline[-1]["event_id"] not in watcher.seen[room]:
            await watcher.sync(100)
        for talker in talkers:
            history.check_answers(talker, timeline)
            assert talker.client.failures == 0, "a request was lost where a replica came or went"
        history.check_watched(watcher, room, timeline)


async def leave(replica: Replica) -> None:
    """In good order; the proxy knows of it before the next one leaves."""
    assert await asyncio.to_thread(replica.stop) == 0
    await asyncio.sleep(NOTICED_SECONDS)


async def test_replicas_join_and_leave_under_load(cluster: Cluster, http: aiohttp.ClientSession) -> None:
    """Requests go round by a proxy. A third replica joins, then the first two leave in good order."""
    first, second, third = cluster.replicas
    await asyncio.to_thread(first.start)
    await asyncio.to_thread(second.start)
    async with talking(cluster, http, people=4):
        await asyncio.to_thread(third.start)
        await asyncio.sleep(NOTICED_SECONDS)
        await leave(first)
        await leave(second)


async def test_an_upgrade_goes_from_replica_to_replica(cluster: Cluster, http: aiohttp.ClientSession) -> None:
    """The next release brings a field, an index and a step of migration, while this one goes on serving."""
    old, other, new = cluster.replicas
    new.module = NEXT_RELEASE
    await asyncio.to_thread(old.start)
    await asyncio.to_thread(other.start)
    async with talking(cluster, http, people=3) as people:
        await asyncio.to_thread(new.start)
        # Both releases serve, and the proxy comes to know it.
        await asyncio.sleep(NOTICED_SECONDS)
        for replica in (old, other, new):
            answer = await people[0].at(replica.url).call("GET", "/devices")
            assert [device["device_id"] for device in answer["devices"]] == [people[0].device_id]
        await leave(old)
        await leave(other)
        other.module = NEXT_RELEASE
        await asyncio.to_thread(other.start)
    stored = mongodb.database(cluster.storage)
    whose = stored["store"].find_one({"_id": "store"}, hint="_id_")
    assert whose is not None
    assert (whose["steps"], whose[next_release.STEP]) == (1, True)
    assert next_release.BY_AGE.name in stored["devices"].index_information()
    # Who is left behind is not let in again.
    (line,) = await asyncio.to_thread(old.refused)
    assert "written by a newer release: run that one" in line


async def test_senders_at_all_replicas_share_one_room(cluster: Cluster, http: aiohttp.ClientSession) -> None:
    """Ninety at once, spread over three replicas, into one room: nothing lost, and one order for all."""
    await asyncio.to_thread(cluster.start)
    anna = await history.Client(http, cluster.urls, random.Random(0)).register("anna")
    room = (await anna.call("POST", "/createRoom", {}))["room_id"]

    async def send(number: int) -> str:
        replica = anna.at(cluster.urls[number % 3])
        body = {"msgtype": "m.text", "body": str(number)}
        sent = await replica.call("PUT", f"/rooms/{room}/send/m.room.message/{number}", body)
        # The answer got lost, says the client, and tries the next replica.
        again = await anna.at(cluster.urls[(number + 1) % 3]).call(
            "PUT", f"/rooms/{room}/send/m.room.message/{number}", body
        )
        assert again == sent
        return str(sent["event_id"])

    sent = await asyncio.gather(*(send(number) for number in range(90)))
    told = [await anna.at(url).timeline(room) for url in cluster.urls]
    history.check_same(told)
    there = [event["event_id"] for event in told[0] if event["type"] == "m.room.message"]
    assert sorted(there) == sorted(sent)
