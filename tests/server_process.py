"""A Weft server as a process of its own, on a directory that outlives it."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from secrets import randbelow
from urllib.error import URLError
from urllib.request import urlopen

REPOSITORY = Path(__file__).parents[1]
STARTUP_SECONDS = 60.0


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on.

    It is below those that systems give to whoever asks for any: it is free a moment later, too.
    """
    while True:
        port = 20_000 + randbelow(12_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class ServerProcess:
    """Started, killed and started again in development mode."""

    def __init__(self, data_dir: Path, **environment: str) -> None:
        self.data_dir = data_dir
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = environment
        self.module = "homeserver"
        """What is run."""
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log_path(self) -> Path:
        return self.data_dir / "server.log"

    @property
    def variables(self) -> dict[str, str]:
        """Its configuration."""
        return {
            "WEFT_LISTEN": f"127.0.0.1:{self.port}",
            "WEFT_DATA_DIR": str(self.data_dir),
            **self.environment,
        }

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start, and return once the server answers."""
        with self.log_path.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", self.module, "serve", "--dev"],
                cwd=REPOSITORY,
                env={**os.environ, **self.variables},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + STARTUP_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            try:
                with urlopen(f"{self.url}/_matrix/client/versions", timeout=2):
                    return
            except (URLError, ConnectionError, TimeoutError):
                time.sleep(0.02)
        raise AssertionError(f"the server did not come up:\n{self.log_path.read_text()[-4000:]}")

    def kill(self) -> None:
        """As a crash does it: no chance to finish anything."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(timeout=20)
        self._process = None

    def stop(self) -> int:
        """As an operator does it; the exit code."""
        if self._process is None:
            return 0
        self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(timeout=60)
        self._process = None
        return code
