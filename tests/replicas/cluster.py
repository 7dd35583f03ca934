"""Several replicas of one server as processes, on one database and one broker."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.server_process import REPOSITORY, ServerProcess

ROOM_SHARDS = 4
USER_SHARDS = 4
REFUSED_SECONDS = 60.0


class Replica(ServerProcess):
    """One of them; it can be frozen, too."""

    frozen = False

    def freeze(self) -> None:
        """As a machine does that swaps or is being moved: nothing runs, connections stay."""
        self._signal(signal.SIGSTOP)
        self.frozen = True

    def thaw(self) -> None:
        if self.frozen:
            self._signal(signal.SIGCONT)
            self.frozen = False

    def refused(self) -> list[str]:
        """What it says when it does not start."""
        command = [sys.executable, "-m", self.module, "serve", "--dev"]
        environment = {**os.environ, **self.variables}
        ended = subprocess.run(
            command,
            cwd=REPOSITORY,
            env=environment,
            capture_output=True,
            timeout=REFUSED_SECONDS,
            check=False,
        )
        assert ended.returncode in (1, 2), ended
        return ended.stderr.decode().splitlines()

    def doctor(self) -> tuple[int, list[dict[str, str]]]:
        """What `weft doctor` finds with this replica's configuration: exit code and findings."""
        ended = subprocess.run(
            [sys.executable, "-m", "homeserver", "doctor", "--dev", "--json"],
            cwd=REPOSITORY,
            env={**os.environ, **self.variables},
            capture_output=True,
            check=False,
        )
        return ended.returncode, json.loads(ended.stdout)

    def _signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    @property
    def running(self) -> bool:
        return self._process is not None


class Cluster:
    """Replicas that share the signing key and the folder of media, and nothing else on disk."""

    def __init__(
        self,
        folder: Path,
        count: int,
        *,
        storage: str,
        bus: str,
        prefix: str,
        apart: Sequence[Mapping[str, str]] = (),
    ) -> None:
        """`apart`: what is different for each of them, as variables of the environment."""
        self._folder = folder
        self.storage = storage
        self.prefix = prefix
        self._environment = {
            "WEFT_STORAGE_URI": storage,
            "WEFT_STORAGE_ROOM_SHARDS": str(ROOM_SHARDS),
            "WEFT_STORAGE_USER_SHARDS": str(USER_SHARDS),
            "WEFT_BUS_URI": bus,
            "WEFT_BUS_TOPIC_PREFIX": prefix,
            "WEFT_DATA_DIR": str(folder / "shared"),
            "WEFT_LIMITS_MAX_SYNC_TIMELINE": "5000",
        }
        self.replicas: list[Replica] = []
        for number in range(count):
            self.add(**(apart[number] if apart else {}))

    def add(self, **environment: str) -> Replica:
        """One more, not started."""
        own = self._folder / f"replica{len(self.replicas)}"
        own.mkdir()
        self.replicas.append(Replica(own, **{**self._environment, **environment}))
        return self.replicas[-1]

    @property
    def urls(self) -> list[str]:
        return [replica.url for replica in self.replicas]

    def unforeseen(self) -> list[str]:
        """What the replicas logged as faults of their own."""
        lines = [line for replica in self.replicas for line in replica.log_path.read_text().splitlines()]
        return [line for line in lines if '"exception"' in line and '"level":"error"' in line]

    def start(self) -> None:
        for replica in self.replicas:
            if not replica.running:
                replica.start()

    def stop(self) -> None:
        for replica in self.replicas:
            replica.thaw()
            replica.stop()

    def kill(self) -> None:
        for replica in self.replicas:
            if replica.running:
                replica.thaw()
                replica.kill()
