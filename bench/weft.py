"""Weft as it is in this tree, in development mode: open registration, no rate limits, cheap hashes.

By itself on SQLite, or as replicas on MongoDB and Kafka.
"""

import asyncio
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import replace
from pymongo import MongoClient

from bench.metrics import divided
from bench.parts import Parts
from bench.results import ReplicaAt, Restarted
from bench.server import HOST, Server, free_port

TREE = Path(__file__).resolve().parent.parent

SHARDS = 16
"""Room shards, and user shards, of a server that is several replicas."""
_REJOIN_SECONDS = 3.0
"""In which the broker notices that a replica runs again."""


class Weft(Server):
    name = "Weft"

    details = "Weft of this tree, SQLite, in-process bus"

    def command(self) -> Sequence[str]:
        return [sys.executable, "-m", "homeserver", "serve", "--dev"]

    def environment(self) -> Mapping[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("WEFT_")}
        return inherited | {
            "PYTHONPATH": str(TREE),
            "WEFT_SERVER_NAME": "weft.test",
            "WEFT_LISTEN": f"{HOST}:{self.port}",
            "WEFT_DATA_DIR": str(self.folder / "data"),
            "WEFT_LOG_LEVEL": "warning",
        }


class Replica(Weft):
    """One of those that share a database, a broker and a signing key."""

    def __init__(self, folder: Path, cores: Collection[int], parts: Parts, server: str) -> None:
        """`server` names what they share: the database, and the topics."""
        super().__init__(folder, cores)
        self._metrics = free_port()
        self._shared = {
            "WEFT_STORAGE_URI": parts.database_called(server),
            "WEFT_STORAGE_ROOM_SHARDS": str(SHARDS),
            "WEFT_STORAGE_USER_SHARDS": str(SHARDS),
            "WEFT_BUS_URI": f"kafka://{parts.broker}",
            "WEFT_BUS_TOPIC_PREFIX": server,
            "WEFT_DATA_DIR": str(folder.parent / "shared"),
            "WEFT_METRICS_LISTEN": f"{HOST}:{self._metrics}",
        }

    def environment(self) -> Mapping[str, str]:
        return {**super().environment(), **self._shared}

    @property
    def at(self) -> ReplicaAt:
        assert self._process is not None
        return ReplicaAt(self.port, self._metrics, self._process.pid)


class Replicas(Replica):
    """A replica, and as many more as are wanted; its database and its broker are charged to it."""

    def __init__(self, name: str, count: int, folder: Path, cores: Collection[int], parts: Parts) -> None:
        server = f"{folder.name}-{os.getpid()}"
        super().__init__(folder / "replica0", cores, parts, server)
        self.name = name
        self.details = f"{name}: MongoDB, Kafka, {SHARDS} room and {SHARDS} user shards, {count} replica(s)"
        self.parts = parts
        self._more = [
            Replica(folder / f"replica{number}", cores, parts, server) for number in range(1, count)
        ]

    @property
    def database(self) -> str:
        """The URI of the database that the replicas share."""
        return self._shared["WEFT_STORAGE_URI"]

    @property
    def beside(self) -> list[int]:
        return list(self.parts.pids.values())

    @property
    def replicas(self) -> list[ReplicaAt]:
        return [self.at, *(replica.at for replica in self._more)]

    def disk_bytes(self) -> int:
        with MongoClient[dict[str, Any]](self.database) as client:
            client.admin.command("fsync")
            stats = client.get_default_database().command("dbStats")
        return int(stats["storageSize"] + stats["indexSize"])

    async def start(self) -> Restarted:
        started = await super().start()
        pids = started.pids
        for replica in self._more:
            pids += (await replica.start()).pids
        return replace(started, pids=pids)

    async def stop(self) -> None:
        for replica in self._more:
            await replica.stop()
        await super().stop()

    def freeze(self) -> None:
        super().freeze()
        for replica in self._more:
            replica.freeze()

    def thaw(self) -> None:
        super().thaw()
        for replica in self._more:
            replica.thaw()

    async def awake(self) -> None:
        await asyncio.sleep(_REJOIN_SECONDS)
        await divided([replica.metrics for replica in self.replicas])
