"""Somebody else's server as a process: started until it answers, and killed."""

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

READY_WITHIN_S = 120


class PeerProcess:
    """Its data and what it prints are in `folder`; `url` answers once it is up."""

    def __init__(
        self, folder: Path, command: Sequence[str | Path], variables: Mapping[str, str], url: str
    ) -> None:
        self._folder = folder
        self._command = command
        self._variables = variables
        self._url = url
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def printed(self) -> str:
        return (self._folder / "output").read_text()

    def start(self) -> None:
        """Start, and return once it answers."""
        with (self._folder / "output").open("ab") as output:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._folder,
                env={**os.environ, **self._variables},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        until = time.monotonic() + READY_WITHIN_S
        while time.monotonic() < until and self._process.poll() is None:
            try:
                with urlopen(self._url, timeout=2):
                    return
            except (URLError, ConnectionError, TimeoutError):
                time.sleep(0.1)
        raise AssertionError(f"{self._command} did not come up:\n{self.printed[-4000:]}")

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
