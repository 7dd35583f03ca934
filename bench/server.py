"""A homeserver process under measurement: started, pinned, frozen while another is measured, ended."""

import asyncio
import os
import signal
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from bench import proc
from bench.results import Restarted

HOST = "127.0.0.1"
_START_LIMIT = 120.0
_STOP_LIMIT = 30.0
_PROBE = b"GET /_matrix/client/versions HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"


class ServerFailed(Exception):
    """The server cannot be installed, or does not come up; the message says what it printed last."""


@contextmanager
def pinned(cores: Collection[int]) -> Iterator[None]:
    """Processes started inside run on these cores alone."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        port: int = listener.getsockname()[1]
        return port


async def answers(port: int) -> bool:
    """Whether a homeserver answers there."""
    try:
        reader, writer = await asyncio.open_connection(HOST, port)
    except OSError:
        return False
    try:
        writer.write(_PROBE)
        async with asyncio.timeout(10):
            return b" 200 " in await reader.readline()
    except OSError:
        return False
    finally:
        writer.close()


def tree_bytes(folder: Path) -> int:
    """Disk space taken by all files below a folder."""
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


class Server(ABC):
    """One homeserver that the benchmark may start and stop. `folder` holds all that it writes."""

    name: str
    details: str  # for the reader of the table: version, database

    def __init__(self, folder: Path, cores: Collection[int]) -> None:
        self.folder = folder
        self.port = free_port()
        self._cores = cores
        self._process: asyncio.subprocess.Process | None = None
        (folder / "data").mkdir(parents=True)

    @abstractmethod
    def command(self) -> Sequence[str]:
        """What to run; its stored data belongs below `folder/data`."""

    def environment(self) -> Mapping[str, str]:
        return os.environ

    def disk_bytes(self) -> int:
        """Size of the stored data. Exact only while the server is down."""
        return tree_bytes(self.folder / "data")

    @property
    def beside(self) -> list[int]:
        """Processes that work for the server and are charged to it, but are not ours to stop."""
        return []

    async def start(self) -> Restarted:
        """Starts the server and waits until it answers. Raises ServerFailed."""
        size = self.disk_bytes()
        log = self.folder / "output.log"
        begun = time.perf_counter()
        with pinned(self._cores), log.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *self.command(),
                cwd=self.folder,
                env=self.environment(),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        while not await answers(self.port):
            if self._process.returncode is not None or time.perf_counter() - begun > _START_LIMIT:
                await self.stop()
                raise ServerFailed(f"{self.name} did not start:\n{self.last_output()}")
            await asyncio.sleep(0.01)
        seconds = time.perf_counter() - begun
        family = proc.with_children([self._process.pid])
        cpu = proc.cpu_seconds(family)
        await proc.quiet(family)
        return Restarted(
            pids=[self._process.pid, *self.beside],
            seconds=seconds,
            cpu_seconds=cpu,
            rss_mib=proc.rss_bytes(family) / 2**20,
            disk_bytes=size,
        )

    async def stop(self) -> None:
        """Ends the server: politely, then not."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        self._signal(signal.SIGCONT)
        process.terminate()
        try:
            async with asyncio.timeout(_STOP_LIMIT):
                await process.wait()
        except TimeoutError:
            self._signal(signal.SIGKILL)
            await process.wait()

    def freeze(self) -> None:
        """Stops the clock for this server, so that its background work does not disturb the others."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    async def awake(self) -> None:
        """Returns when a server that was thawed works as before."""
        await asyncio.sleep(0)

    def last_output(self) -> str:
        log = self.folder / "output.log"
        return log.read_text(errors="replace")[-2000:] if log.exists() else ""

    def _signal(self, number: signal.Signals) -> None:
        if self._process is None or self._process.returncode is not None:
            return
        for pid in proc.with_children([self._process.pid]):
            with suppress(ProcessLookupError):
                os.kill(pid, number)
