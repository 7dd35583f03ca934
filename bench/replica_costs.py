"""What a message costs two replicas, the database and the broker: the inputs of `bench.scaling_model`.

    python -m bench.replica_costs --storage mongodb://HOST/EMPTY --bus kafka://HOST:PORT --pid mongod=123

Messages go to the replica that owns their room's shard, then to the other one, then with readers that wait at
the replica that does not. CPU is user and system time per message, until all are quiet again.
"""

import argparse
import asyncio
import contextlib
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp

from bench import proc
from storage.log import ShardMap
from tests.server_process import ServerProcess, free_port

ROOMS = 8
SHARDS = ShardMap(rooms=4, users=4)
SETTLE_SECONDS = 2.0


class Replica(ServerProcess):
    """One of the two, with metrics."""

    def __init__(self, folder: Path, number: int, **environment: str) -> None:
        own = folder / f"replica{number}"
        own.mkdir()
        listen = f"127.0.0.1:{free_port()}"
        self.metrics = f"http://{listen}/metrics"
        super().__init__(own, WEFT_DATA_DIR=str(folder), WEFT_METRICS_LISTEN=listen, **environment)


class Measured:
    """Two replicas, a user of them, and rooms by the replica that owns them."""

    def __init__(self, replicas: list[Replica], http: aiohttp.ClientSession, others: dict[str, int]) -> None:
        """`others`: pids of the database and the broker."""
        self.replicas = replicas
        self.http = http
        mine = {f"replica {number}": replica.pid for number, replica in enumerate(replicas)}
        self.pids = {name: proc.with_children([pid]) for name, pid in (mine | others).items()}
        self.token = ""
        self.owned: list[list[str]] = [[], []]
        self._txn = 0

    async def call(self, url: str, method: str, path: str, body: Any = None, **query: str) -> Any:
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        path = f"{url}/_matrix/client/v3{path}"
        async with self.http.request(method, path, json=body, headers=headers, params=query) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.json()

    async def prepare(self) -> None:
        """A user, and rooms that each of the replicas owns."""
        url = self.replicas[0].url
        body = {"username": "alice", "password": "correct horse", "auth": {"type": "m.login.dummy"}}
        self.token = (await self.call(url, "POST", "/register", body))["access_token"]
        owners = await self._owners()
        while min(map(len, self.owned)) < ROOMS:
            room_id = (await self.call(url, "POST", "/createRoom", {}))["room_id"]
            self.owned[owners[SHARDS.of_room(room_id)]].append(room_id)

    async def _owners(self) -> dict[int, int]:
        """Which replica owns each room shard: the one that publishes what is appended to it."""
        text = []
        for replica in self.replicas:
            async with self.http.get(replica.metrics) as answer:
                text.append(await answer.text())
        found = {}
        for shard in SHARDS.room_shards():
            line = f'weft_consumer_lag{{consumer="directory",shard="{shard}"}}'
            found[shard] = next(n for n in range(2) if line in text[n])
        return found

    async def cpu_of(self, work: Callable[[], Awaitable[int]]) -> dict[str, float]:
        """Milliseconds of CPU of each process for each of as many things as `work` says that it did."""
        before = {name: proc.cpu_seconds(pids) for name, pids in self.pids.items()}
        count = await work()
        await proc.quiet(set().union(*self.pids.values()), SETTLE_SECONDS)
        return {
            name: (proc.cpu_seconds(pids) - before[name]) * 1000 / count for name, pids in self.pids.items()
        }

    async def idle(self, seconds: float) -> dict[str, float]:
        """Milliseconds of CPU of each process in a second in which nothing happens."""
        before = {name: proc.cpu_seconds(pids) for name, pids in self.pids.items()}
        await asyncio.sleep(seconds)
        return {
            name: (proc.cpu_seconds(pids) - before[name]) * 1000 / seconds for name, pids in self.pids.items()
        }

    async def send(self, url: str, rooms: list[str], messages: int, at_once: int) -> int:
        async def sender(number: int) -> None:
            for n in range(messages // at_once):
                self._txn += 1
                room = rooms[(number + n) % len(rooms)]
                body = {"msgtype": "m.text", "body": "a message of a usual length, more or less"}
                await self.call(url, "PUT", f"/rooms/{room}/send/m.room.message/{self._txn}", body)

        await asyncio.gather(*(sender(number) for number in range(at_once)))
        return messages // at_once * at_once

    @contextlib.asynccontextmanager
    async def readers(self, url: str, count: int) -> AsyncIterator[None]:
        """So many devices that wait for news there."""
        tokens = []
        for _ in range(count):
            body = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "alice"}}
            tokens.append(await self.call(url, "POST", "/login", {**body, "password": "correct horse"}))
        tasks = [asyncio.create_task(self._read(url, login["access_token"])) for login in tokens]
        await asyncio.sleep(SETTLE_SECONDS)
        yield
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self, url: str, token: str) -> None:
        headers, since = {"Authorization": f"Bearer {token}"}, ""
        while True:
            query = {"timeout": "30000", "set_presence": "offline", **({"since": since} if since else {})}
            path = f"{url}/_matrix/client/v3/sync"
            async with self.http.get(path, headers=headers, params=query) as answer:
                since = (await answer.json())["next_batch"]


async def measure(arguments: argparse.Namespace) -> None:
    """Print a line for each kind of work."""
    environment = {
        "WEFT_STORAGE_URI": arguments.storage,
        "WEFT_STORAGE_ROOM_SHARDS": str(SHARDS.rooms),
        "WEFT_STORAGE_USER_SHARDS": str(SHARDS.users),
        "WEFT_BUS_URI": arguments.bus,
        "WEFT_BUS_TOPIC_PREFIX": f"bench-{os.getpid()}",
    }
    others = {name: int(pid) for name, _, pid in (given.partition("=") for given in arguments.pid)}
    with tempfile.TemporaryDirectory() as scratch:
        replicas = [Replica(Path(scratch), number, **environment) for number in range(2)]
        try:
            for replica in replicas:
                replica.start()
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
                measured = Measured(replicas, http, others)
                await measured.prepare()
                await _measure(measured, arguments)
        finally:
            for replica in replicas:
                replica.stop()


async def _measure(measured: Measured, arguments: argparse.Namespace) -> None:
    first, second = (replica.url for replica in measured.replicas)
    messages, readers = arguments.messages, arguments.readers
    _print("idle, per second", await measured.idle(SETTLE_SECONDS))
    for at_once in arguments.at_once:
        for what, rooms in (("its own shard", measured.owned[0]), ("the other's shard", measured.owned[1])):
            await measured.send(first, rooms, messages // 10, at_once)
            costs = await measured.cpu_of(lambda r=rooms, n=at_once: measured.send(first, r, messages, n))  # type: ignore[misc]
            _print(f"sent to replica 0, {what}, {at_once} at once", costs)
    async with measured.readers(second, readers):
        costs = await measured.cpu_of(lambda: measured.send(first, measured.owned[0], messages // 10, 1))
        _print(f"the same, one at once, {readers} readers at replica 1", costs)


def _print(what: str, costs: dict[str, float]) -> None:
    print(f"{what}: " + ", ".join(f"{name} {cost:.3f} ms" for name, cost in costs.items()), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="CPU of a message at two replicas, database and broker")
    parser.add_argument("--storage", required=True, metavar="URI", help="a MongoDB database, empty")
    parser.add_argument("--bus", required=True, metavar="URI", help="kafka://HOST:PORT")
    parser.add_argument("--pid", action="append", default=[], metavar="NAME=PID", help="also of this process")
    parser.add_argument("--messages", type=int, default=3000)
    parser.add_argument("--at-once", type=int, nargs="+", default=[1, 10, 50])
    parser.add_argument("--readers", type=int, default=20)
    asyncio.run(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
