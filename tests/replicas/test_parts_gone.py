"""What clients are told while the database or the broker is gone, or another store lies in its place.

Requests that cannot be served get 503 and when to come again, within a time that is bounded; long-polls
that wait are kept; `weft doctor` says what is the matter. And when it is mended, all goes on.
"""

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import aiohttp
import pytest
from pymongo.database import Database

from tests.real_parts import mongodb
from tests.real_parts.kafka import Kafka
from tests.real_parts.mongodb import ReplicaSet
from tests.replicas import history
from tests.replicas.cluster import Cluster

ELECTION_MS = 4000
"""How long operations wait for a primary; 30 s unless `storage.uri` says otherwise."""
FIRST_SECONDS = 25.0
"""The first answers may take as long as that, and an attempt by the owner of the shard before it."""
NEXT_SECONDS = 10.0
"""Those after them do not wait for what is known to be away."""
POLL_MS = 120_000
MESSAGE = {"msgtype": "m.text", "body": "I am back"}


class Told(NamedTuple):
    status: int
    body: history.Json
    headers: Mapping[str, str]
    seconds: float


class Scene:
    """Two replicas, somebody with a room, and the parts that can be taken away."""

    def __init__(
        self, cluster: Cluster, database: ReplicaSet, kafka: Kafka, http: aiohttp.ClientSession
    ) -> None:
        self.cluster = cluster
        self.database = database
        self.kafka = kafka
        self.http = http
        self.room = ""
        self._number = 0

    async def begin(self) -> None:
        name = f"anna{random.randrange(1 << 30)}"
        self.anna = await history.Client(self.http, self.cluster.urls, random.Random(0)).register(name)
        self.room = (await self.anna.surely("POST", "/createRoom", {}))["room_id"]

    async def ask(self, method: str, path: str, body: history.Json | None = None, replica: int = 0) -> Told:
        began = time.monotonic()
        url = f"{self.cluster.urls[replica]}/_matrix/client/v3{path}"
        headers = {"Authorization": f"Bearer {self.anna.token}"}
        timeout = aiohttp.ClientTimeout(total=120)
        async with self.http.request(method, url, json=body, headers=headers, timeout=timeout) as response:
            return Told(response.status, await response.json(), response.headers, time.monotonic() - began)

    async def send(self, replica: int = 0) -> Told:
        self._number += 1
        path = f"/rooms/{quote(self.room)}/send/m.room.message/{self._number}"
        return await self.ask("PUT", path, {"msgtype": "m.text", "body": str(self._number)}, replica)

    def requests(self, replica: int) -> list[Awaitable[Told]]:
        """Some that need the store, of all kinds."""
        login = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": self.anna.user_id},
            "password": "correct horse",
        }
        return [
            self.send(replica),
            self.ask("GET", f"/rooms/{quote(self.room)}/state", None, replica),
            self.ask("GET", "/sync", None, replica),
            self.ask("POST", "/login", login, replica),
            self.ask("POST", "/createRoom", {}, replica),
            self.ask("PUT", f"/user/{quote(self.anna.user_id)}/account_data/m.x", {"a": 1}, replica),
        ]

    async def poll(self) -> "asyncio.Task[Told]":
        """A long-poll that waits for news, at the first replica; that somebody has gone idle is none."""
        since = (await self.anna.at(self.cluster.urls[0]).surely("GET", "/sync"))["next_batch"]
        wanted = quote('{"presence":{"not_types":["*"]}}')
        task = asyncio.create_task(self.ask("GET", f"/sync?since={since}&timeout={POLL_MS}&filter={wanted}"))
        await asyncio.sleep(0.3)
        return task

    async def refused(self, within: float) -> None:
        """All requests, at both replicas, are told to come again."""
        told = await asyncio.gather(*self.requests(0), *self.requests(1))
        for answer in told:
            assert answer.status == 503, answer
            assert answer.body["retry_after_ms"] > 0
            assert answer.headers["Retry-After"]
            text = json.dumps(answer.body)
            assert "127.0.0.1" not in text and "Mongo" not in text, "that is nobody's business"
            assert answer.seconds < within, answer

    async def served(self) -> None:
        """All requests, at both replicas, are answered."""
        for replica in range(2):
            for request in self.requests(replica):
                assert (answer := await request).status == 200, answer

    async def failing(self, subject: str) -> str:
        """What `weft doctor` finds wrong with a subject, asked beside the first replica."""
        code, found = await asyncio.to_thread(self.cluster.replicas[0].doctor)
        assert code == 2
        wrong = [finding for finding in found if (finding["subject"], finding["level"]) == (subject, "FAIL")]
        return "\n".join(f"{finding['text']}; {finding['remedy']}" for finding in wrong)

    @property
    def stored(self) -> Database[Any]:
        """The database of the replicas, by another client."""
        return mongodb.database(self.cluster.storage)


@pytest.fixture(scope="module")
def database() -> Iterator[ReplicaSet]:
    servers = ReplicaSet(1)
    yield servers
    servers.stop()


@pytest.fixture
async def scene(tmp_path: Path, database: ReplicaSet, own_kafka: Kafka) -> AsyncIterator[Scene]:
    name = f"gone{random.randrange(1 << 30)}"
    storage = database.uri.replace("/?", f"/{name}?timeoutMS={ELECTION_MS}&")
    cluster = Cluster(tmp_path, 2, storage=storage, bus=f"kafka://{own_kafka.bootstrap}", prefix=name)
    try:
        await asyncio.to_thread(cluster.start)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
            scene = Scene(cluster, database, own_kafka, http)
            await scene.begin()
            yield scene
    finally:
        cluster.kill()
        if database.nodes[0].role() == "down":
            database.nodes[0].start()
        await asyncio.to_thread(database.wait_until_whole)
        await asyncio.to_thread(own_kafka.ensure_running)


async def test_the_database_is_gone_and_comes_back(scene: Scene) -> None:
    waiting = await scene.poll()
    await asyncio.to_thread(scene.database.nodes[0].kill)
    await scene.refused(FIRST_SECONDS)
    await scene.refused(NEXT_SECONDS)
    told = await scene.failing("store")
    assert "does not answer" in told and "look at the database" in told
    assert not waiting.done()
    scene.database.nodes[0].start()
    await asyncio.to_thread(scene.database.wait_until_whole)
    sent = await scene.anna.surely("PUT", f"/rooms/{quote(scene.room)}/send/m.room.message/back", MESSAGE)
    # What was waited for comes by the poll that has been open all along.
    answer = await asyncio.wait_for(waiting, NEXT_SECONDS)
    events = answer.body["rooms"]["join"][scene.room]["timeline"]["events"]
    assert answer.status == 200
    assert sent["event_id"] in [event["event_id"] for event in events]
    await scene.served()


async def test_a_server_whose_database_is_gone_can_be_stopped(scene: Scene) -> None:
    await asyncio.to_thread(scene.database.nodes[0].kill)
    stopped = [asyncio.to_thread(replica.stop) for replica in scene.cluster.replicas]
    assert await asyncio.gather(*stopped) == [0, 0]


async def test_the_broker_is_gone_and_nobody_notices(scene: Scene) -> None:
    waiting = await scene.poll()
    await asyncio.to_thread(scene.kafka.kill)
    sent = await scene.send(replica=1)
    answer = await asyncio.wait_for(waiting, NEXT_SECONDS)
    events = answer.body["rooms"]["join"][scene.room]["timeline"]["events"]
    assert sent.body["event_id"] in [event["event_id"] for event in events]
    await scene.served()
    told = await scene.failing("bus")
    for _ in range(10):
        # The broker is found to be gone at once; that a replica says so too may take a moment.
        if "has lost the bus" in told:
            break
        told = await scene.failing("bus")
    assert "no broker can be reached" in told and "has lost the bus; it reads the log instead" in told


@pytest.mark.parametrize("how", ["dropped", "restored"])
async def test_another_store_lies_in_the_place(scene: Scene, how: str) -> None:
    """What replicas know is of another log: they neither show it nor append behind it."""
    for _ in range(3):
        await scene.send()
    stored = scene.stored
    ends = {entry["_id"] >> 44: entry["_id"] for entry in stored["log"].find({}, {"_id": 1}, hint="_id_")}
    if how == "dropped":
        stored.client.drop_database(stored.name)
    else:
        stored["log"].delete_many({"_id": {"$in": list(ends.values())}}, hint="_id_")
        stored["store"].update_one({"_id": "store"}, {"$set": {"epoch": "of another time"}})
    await asyncio.sleep(2.5)
    await scene.refused(NEXT_SECONDS)
    told = await scene.failing("store")
    assert "is not the store that was opened" in told and "start this server anew" in told
    left = list(stored["log"].find({}, {"_id": 1}, hint="_id_"))
    assert not {entry["_id"] for entry in left} & set(ends.values()), "something was appended behind a hole"
