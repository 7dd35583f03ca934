"""The servers beside the replicas: MongoDB and Kafka, and PostgreSQL for Synapse. All keep data on disk.

They run on cores of their own where the machine has them, as they would on machines of their own, but what
CPU they use is charged to whom they work for. MONGODB_URI and KAFKA_BOOTSTRAP in the environment name servers
to use instead, whose CPU then goes uncounted.
"""

import asyncio
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Collection
from pathlib import Path

from bench import proc
from bench.server import HOST, ServerFailed, free_port, pinned
from bench.synapse import Postgres
from tests.real_parts.kafka import Kafka
from tests.real_parts.mongodb import ReplicaSet

_READY_SECONDS = 60.0
_POSTGRES_USER = "postgres"
_POSTGRES_SETTINGS = ("shared_buffers=256MB", "max_connections=50", f"listen_addresses={HOST}")


class Parts:
    """A database server and a broker, started."""

    def __init__(self, folder: Path, cores: Collection[int]) -> None:
        """The data goes below `folder`, and the servers run on these cores."""
        folder.mkdir()
        self.database = os.environ.get("MONGODB_URI", "")
        self.broker = os.environ.get("KAFKA_BOOTSTRAP", "")
        self.pids: dict[str, int] = {}
        """Of those that were started: "database", "broker"."""
        self._mongodb: ReplicaSet | None = None
        self._kafka: Kafka | None = None
        with pinned(cores):
            if not self.database:
                self._mongodb = ReplicaSet(1, beneath=folder)
                self.database = self._mongodb.uri
                self.pids["database"] = self._mongodb.nodes[0].pid
            if not self.broker:
                (folder / "kafka").mkdir()
                self._kafka = Kafka(folder / "kafka")
                self._kafka.start()
                self.broker = self._kafka.bootstrap
                self.pids["broker"] = self._kafka.pid

    def database_called(self, name: str) -> str:
        """The URI of a database of this name."""
        address, _, options = self.database.partition("?")
        return f"{address.rstrip('/')}/{name}?{options}"

    def run_on(self, cores: Collection[int]) -> None:
        proc.pin(self.pids.values(), cores)

    def stop(self) -> None:
        if self._kafka is not None:
            self._kafka.kill()
        if self._mongodb is not None:
            self._mongodb.stop()


class PostgresServer:
    """PostgreSQL as it comes, but with more memory: what it acknowledges is on disk."""

    def __init__(self, cores: Collection[int]) -> None:
        """Raises ServerFailed if it is not installed or does not start."""
        programs = _postgres_programs()
        # It does not run as root, and its user has no way into root's folders.
        self._folder = Path(tempfile.mkdtemp(prefix="weft-postgres-"))
        self._as_user: list[str] = []
        if os.geteuid() == 0:
            user = pwd.getpwnam(_POSTGRES_USER)
            os.chown(self._folder, user.pw_uid, user.pw_gid)
            self._as_user = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
        data, self._port = self._folder / "data", free_port()
        initdb = (str(programs / "initdb"), "--auth=trust", "--locale=C", "--encoding=UTF8")
        self._run(*initdb, "--username=weft", f"--pgdata={data}")
        server = [str(programs / "postgres"), "-D", str(data), "-p", str(self._port), "-k", ""]
        for setting in _POSTGRES_SETTINGS:
            server += ["-c", setting]
        with pinned(cores), (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [*self._as_user, *server], cwd=self._folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.postgres = Postgres(f"postgresql://weft@{HOST}:{self._port}/postgres", self._process.pid)

    async def ready(self) -> None:
        """Wait until it takes connections. Raises ServerFailed."""
        try:
            async with asyncio.timeout(_READY_SECONDS):
                while True:
                    try:
                        _, writer = await asyncio.open_connection(HOST, self._port)
                    except OSError:
                        await asyncio.sleep(0.1)
                    else:
                        writer.close()
                        return
        except TimeoutError:
            raise ServerFailed((self._folder / "log").read_text(errors="replace")[-2000:]) from None

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _run(self, *command: str) -> None:
        done = subprocess.run(
            [*self._as_user, *command], cwd=self._folder, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise ServerFailed(done.stderr[-2000:])


def _postgres_programs() -> Path:
    """The folder of PostgreSQL's programs; Debian's packages do not put them on the PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if (on_path := shutil.which("initdb")) is not None:
        found.append(Path(on_path))
    if not found:
        raise ServerFailed("PostgreSQL is not installed (Debian: apt install postgresql)")
    return found[-1].parent
