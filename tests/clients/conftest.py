"""A running server for the client libraries: one started here, or the one that WEFT_TEST_URL names."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from tests.server_process import free_port

from .nio_device import Device

STARTUP_SECONDS = 30.0
SHUTDOWN_SECONDS = 20.0
REPOSITORY = Path(__file__).parents[2]

Register = Callable[[str], Awaitable[Device]]


def wait_until_serving(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Returns once the server answers; fails with its log when it ends or stays silent."""
    deadline = time.monotonic() + STARTUP_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            pytest.fail(f"the server ended with {process.returncode}:\n{log.read_text()[-4000:]}")
        try:
            with urlopen(f"{url}/_matrix/client/versions", timeout=2):
                return
        except (URLError, ConnectionError, TimeoutError):
            time.sleep(0.1)
    pytest.fail(f"the server did not answer within {STARTUP_SECONDS:.0f} s:\n{log.read_text()[-4000:]}")


@pytest.fixture(scope="session")
def homeserver_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of a server with open registration."""
    if given := os.environ.get("WEFT_TEST_URL"):
        yield given.rstrip("/")
        return
    data = tmp_path_factory.mktemp("weft")
    log = data / "server.log"
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WEFT_")}
    environment |= {"WEFT_LISTEN": f"127.0.0.1:{port}", "WEFT_DATA_DIR": str(data)}
    command = [sys.executable, "-m", "homeserver", "serve", "--dev"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=REPOSITORY, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until_serving(url, process, log)
        yield url
        process.terminate()
        assert process.wait(SHUTDOWN_SECONDS) == 0, f"the server did not end well:\n{log.read_text()[-4000:]}"
    finally:
        process.kill()
        process.wait()


@pytest.fixture
async def register(homeserver_url: str, tmp_path: Path) -> AsyncIterator[Register]:
    """Registers a new person and gives their first device; every device of the test is stopped at its end."""
    opened: list[Device] = []
    yield lambda name: Device.register(homeserver_url, tmp_path / name, name, opened)
    for device in opened:
        await device.stop()
