"""Runs the scenarios on the servers in turn: each round another server goes first, and only one is awake.

Each server has a driver process of its own, on another core than the servers where there is one.
"""

import asyncio
import os
import sys
import time
from collections.abc import Collection, Sequence
from contextlib import suppress

import msgspec

from bench.pairs import Pair
from bench.results import Attach, FromDriver, Outcome, Restart, Run, ToDriver
from bench.scenarios import Scenario
from bench.server import HOST, Server, ServerFailed, pinned
from bench.sizes import Sizes
from bench.weft import TREE, Replicas

_LINE_LIMIT = 2**24
_SCENARIO_LIMIT = 1800.0

_ENCODER = msgspec.json.Encoder()
_DECODER: msgspec.json.Decoder[FromDriver] = msgspec.json.Decoder(FromDriver)


class Target:
    """A server to measure: one that the benchmark started, or (`server` None) one that runs already."""

    def __init__(
        self, name: str, details: str, port: int, pids: Sequence[int], server: Server | None
    ) -> None:
        self.name = name
        self.details = details
        self.port = port
        self.pids = list(pids)
        self.server = server
        self.outcomes: list[Outcome] = []

    def freeze(self) -> None:
        if self.server is not None:
            self.server.freeze()

    async def thaw(self) -> None:
        if self.server is not None:
            self.server.thaw()
            await self.server.awake()

    @property
    def replicas(self) -> Replicas | None:
        """The server if it is one of several that are alike, or could be."""
        return self.server if isinstance(self.server, Replicas) else None

    @property
    def pair(self) -> Pair | None:
        """The server if it is two that talk to each other."""
        return self.server if isinstance(self.server, Pair) else None

    def suits(self, scenario: type[Scenario]) -> bool:
        if scenario.pair != (self.pair is not None):
            return False
        count = len(self.replicas.replicas) if self.replicas is not None else 0
        return scenario.replicas <= count and not (scenario.needs_restart and self.server is None)


class Driver:
    """The driver process of one target."""

    def __init__(self, target: Target, sizes: Sizes, cores: Collection[int]) -> None:
        self.target = target
        self._sizes = sizes
        self._cores = cores
        self._process: asyncio.subprocess.Process | None = None

    async def run(self, scenario: str) -> Outcome:
        """One round of a scenario. A driver that dies or hangs counts as a mistake, and is replaced."""
        try:
            async with asyncio.timeout(_SCENARIO_LIMIT):
                process = self._process = self._process or await self._open()
                self._write(process, Run(scenario))
                while isinstance(message := await self._read(process), Restart):
                    await self._restart(process)
                return message
        except (TimeoutError, EOFError, ServerFailed) as error:
            await self.close()
            return Outcome(mistakes={f"given up: {type(error).__name__} {error}": 1})

    async def close(self) -> None:
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            process.kill()
            await process.wait()

    async def _open(self) -> asyncio.subprocess.Process:
        with pinned(self._cores):
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "bench.driver",
                cwd=TREE,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=_LINE_LIMIT,
            )
        target = self.target
        attach = Attach(
            host=HOST,
            port=target.port,
            pids=target.pids,
            can_restart=target.server is not None,
            sizes=self._sizes,
        )
        if (replicas := target.replicas) is not None:
            attach = msgspec.structs.replace(
                attach,
                replicas=replicas.replicas,
                database=replicas.database,
                beside=replicas.parts.pids,
            )
        if (pair := target.pair) is not None:
            attach = msgspec.structs.replace(
                attach,
                server_name=pair.first.server_name,
                other=pair.other.port,
                own_name=pair.own_name,
            )
        self._write(process, attach)
        return process

    async def _restart(self, process: asyncio.subprocess.Process) -> None:
        server = self.target.server
        assert server is not None
        await server.stop()
        restarted = await server.start()
        self.target.pids = restarted.pids
        self._write(process, restarted)

    @staticmethod
    def _write(process: asyncio.subprocess.Process, message: Attach | ToDriver) -> None:
        assert process.stdin is not None
        process.stdin.write(_ENCODER.encode(message) + b"\n")

    @staticmethod
    async def _read(process: asyncio.subprocess.Process) -> FromDriver:
        assert process.stdout is not None
        line = await process.stdout.readline()
        if not line:
            raise EOFError("the driver ended; see above")
        return _DECODER.decode(line)


async def conduct(
    targets: Sequence[Target], scenarios: Sequence[type[Scenario]], sizes: Sizes, cores: Collection[int]
) -> None:
    """Fills the targets' outcomes. Scenarios that run once come after the rounds of the others."""
    drivers = [Driver(target, sizes, cores) for target in targets]
    in_turn = len(targets) > 1
    if in_turn:
        for target in targets:
            target.freeze()
    repeated = [scenario for scenario in scenarios if not scenario.once]
    plan = [(turn, scenario) for turn in range(sizes.rounds) for scenario in repeated]
    plan += [(0, scenario) for scenario in scenarios if scenario.once]
    try:
        for step, (turn, scenario) in enumerate(plan, 1):
            first = turn % len(drivers)
            for driver in drivers[first:] + drivers[:first]:
                target = driver.target
                if not target.suits(scenario):
                    continue
                _progress(f"{step}/{len(plan)} {scenario.name}: {target.name}")
                begun = time.perf_counter()
                if in_turn:
                    await target.thaw()
                outcome = await driver.run(scenario.name)
                if in_turn:
                    target.freeze()
                outcome.scenario = scenario.name
                outcome.seconds = time.perf_counter() - begun
                target.outcomes.append(outcome)
    finally:
        _progress("")
        for driver in drivers:
            await driver.close()


def cores_for_servers_and_driver() -> tuple[set[int], set[int]]:
    """The last core is the driver's, the others the servers'; all are shared where there is one alone."""
    available = sorted(os.sched_getaffinity(0))
    if len(available) == 1:
        return set(available), set(available)
    return set(available[:-1]), {available[-1]}


def _progress(text: str) -> None:
    with suppress(OSError):
        if sys.stderr.isatty():
            sys.stderr.write(f"\r\x1b[K{text}")
        elif text:
            sys.stderr.write(text + "\n")
        sys.stderr.flush()
