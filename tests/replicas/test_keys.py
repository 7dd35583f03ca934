"""Keys, messages to devices and device lists while replicas die (HARDENING 33)."""

import asyncio
import random
from collections.abc import Iterator

import aiohttp
import pytest

from tests.client_api.crypto_device import ALGORITHM
from tests.real_parts import mongodb
from tests.replicas.cluster import Cluster, Replica
from tests.replicas.history import Client, Json

SEED = 20261122
KEYS = 60
CLAIMS = 100
MESSAGES = 60
ANSWER_LOST = 0.3


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, kafka_bootstrap: str) -> Iterator[Cluster]:
    """Three that run, before each test and after it."""
    name = f"keys{random.randrange(1 << 30)}"
    storage = mongodb.uri().replace("/?", f"/{name}?")
    folder = tmp_path_factory.mktemp("keys")
    cluster = Cluster(folder, 3, storage=storage, bus=f"kafka://{kafka_bootstrap}", prefix=name)
    cluster.start()
    yield cluster
    cluster.kill()
    mongodb.drop(storage)


def one_time_keys() -> Json:
    return {f"{ALGORITHM}:{n}": {"key": f"k{n}", "signatures": {}} for n in range(KEYS)}


def device_keys(client: Client) -> Json:
    return {
        "user_id": client.user_id,
        "device_id": client.device_id,
        "algorithms": ["m.megolm.v1.aes-sha2"],
        "keys": {f"ed25519:{client.device_id}": "A" * 43},
        "signatures": {},
    }


class Inbox:
    """What a device is sent, asked for anywhere; now and then an answer is lost on its way."""

    def __init__(self, client: Client, rng: random.Random) -> None:
        self._client = client
        self._rng = rng
        self._since: dict[str, str] = {}
        self.numbers: list[int] = []
        self.changed: set[str] = set()

    async def begin(self) -> None:
        """What is there already is no news."""
        answer = await self._client.surely("GET", "/sync")
        self._since = {"since": answer["next_batch"]}

    async def look(self) -> None:
        answer = await self._client.surely("GET", "/sync", None, timeout="100", **self._since)
        if self._rng.random() < ANSWER_LOST:
            return
        self._since = {"since": answer["next_batch"]}
        self.numbers += [event["content"]["n"] for event in answer.get("to_device", {}).get("events", [])]
        self.changed |= set(answer.get("device_lists", {}).get("changed", []))


async def crash(replica: Replica) -> None:
    await asyncio.sleep(0.3)
    await asyncio.to_thread(replica.kill)
    await asyncio.sleep(0.5)
    await asyncio.to_thread(replica.start)


async def test_no_key_comes_twice_and_no_message_is_lost(cluster: Cluster) -> None:
    rng = random.Random(SEED)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        alice, bob = [
            await Client(http, cluster.urls, random.Random(n)).register(name)
            for n, name in enumerate(("alice", "bob"))
        ]
        upload = {"device_keys": device_keys(bob), "one_time_keys": one_time_keys()}
        await bob.surely("POST", "/keys/upload", upload)
        inbox = Inbox(bob, rng)
        claimed: list[str] = []

        async def claim() -> None:
            await asyncio.sleep(rng.random() * 1.5)
            wanted = {"one_time_keys": {bob.user_id: {bob.device_id: ALGORITHM}}}
            answer = await alice.surely("POST", "/keys/claim", wanted)
            claimed.extend(answer["one_time_keys"].get(bob.user_id, {}).get(bob.device_id, {}))

        async def send_messages() -> None:
            for n in range(MESSAGES):
                body = {"messages": {bob.user_id: {bob.device_id: {"n": n}}}}
                await alice.surely("PUT", f"/sendToDevice/org.example.note/m{n}", body)

        async def upload_again() -> None:
            """As a client does that was not answered."""
            for _ in range(10):
                await asyncio.sleep(rng.random() / 5)
                await bob.surely("POST", "/keys/upload", upload)

        async def look() -> None:
            while len(inbox.numbers) < MESSAGES:
                await inbox.look()

        async with asyncio.timeout(120):
            await asyncio.gather(
                crash(cluster.replicas[rng.randrange(3)]),
                send_messages(),
                upload_again(),
                look(),
                *(claim() for _ in range(CLAIMS)),
            )
        assert inbox.numbers == list(range(MESSAGES))
        assert len(claimed) == len(set(claimed)), "a one-time key was handed out twice"
        # What was taken for an answer that nobody got is gone.
        assert KEYS - alice.failures <= len(claimed) <= KEYS
        for url in cluster.urls:
            answer = await bob.at(url).surely("GET", "/sync")
            assert answer["device_one_time_keys_count"].get(ALGORITHM, 0) == 0


async def test_a_device_that_came_through_a_dying_replica_is_known_to_all(cluster: Cluster) -> None:
    rng = random.Random(SEED)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        carol, dan = [
            await Client(http, cluster.urls, random.Random(n)).register(name)
            for n, name in enumerate(("carol", "dan"))
        ]
        room = (await carol.surely("POST", "/createRoom", {"preset": "public_chat"}))["room_id"]
        await dan.surely("POST", f"/rooms/{room}/join", {})
        watching = Inbox(carol, rng)
        await watching.begin()
        dying = cluster.replicas[rng.randrange(3)]
        await dan.at(dying.url).surely("POST", "/keys/upload", {"device_keys": device_keys(dan)})
        await asyncio.to_thread(dying.kill)
        async with asyncio.timeout(60):
            while dan.user_id not in watching.changed:
                await watching.look()
        await asyncio.to_thread(dying.start)
        wanted = {"device_keys": {dan.user_id: []}}
        for url in cluster.urls:
            told = await carol.at(url).surely("POST", "/keys/query", wanted)
            assert told["device_keys"][dan.user_id][dan.device_id]["keys"] == device_keys(dan)["keys"]
