"""The command line of the benchmark: `python -m bench [options]`, `python -m bench micro [names]`."""

import argparse
import asyncio
import os
import platform
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import trustme

from bench import scaling_model, synapse
from bench.conductor import Target, conduct, cores_for_servers_and_driver
from bench.pairs import synapse_pair, weft_pair
from bench.parts import Parts, PostgresServer
from bench.report import BUSY_DRIVER, Summary, summarize, table
from bench.results import Figure, Outcome
from bench.scenarios import SCENARIOS, Scenario
from bench.scenarios.fanout import Fanout
from bench.scenarios.send import Send
from bench.server import HOST, Server, ServerFailed
from bench.sizes import DEFAULT, FULL, QUICK, Sizes
from bench.weft import Replicas, Weft


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    about = "\n".join(f"  {name:<11} {scenario.about}" for name, scenario in SCENARIOS.items())
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measures Weft beside Synapse and prints one table. `… bench micro`: the core alone.",
        epilog=f"scenarios:\n{about}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="small sizes, one round: two minutes or less")
    size.add_argument(
        "--full", action="store_true", help="big rooms, many events, more rounds: an hour or so"
    )
    parser.add_argument("--only", metavar="NAME,…", help="only these scenarios")
    parser.add_argument("--rounds", type=_positive, help="rounds whose medians are printed")
    parser.add_argument("--polls", type=_positive, help="idle long-polls")
    parser.add_argument("--members", type=_positive, help="members of the big room")
    parser.add_argument("--state", type=_positive, help="other state events of a big room to be joined")
    parser.add_argument("--events", type=_positive, help="events stored before the timed start")
    parser.add_argument("--presence", choices=["offline", "unavailable", "online"], help="of syncing clients")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all figures there")
    parser.add_argument("--no-synapse", action="store_true", help="Weft alone")
    parser.add_argument("--no-weft", action="store_true", help="Synapse alone, to check the driver")
    parser.add_argument(
        "--replicas", action="store_true", help="Weft on MongoDB and Kafka too: one replica, then three"
    )
    parser.add_argument("--weft-url", help="a running Weft on loopback in development mode")
    parser.add_argument("--pid", type=int, help="its process; needed for CPU and memory")
    parser.add_argument("--postgres", metavar="URL", help="an empty PostgreSQL database for Synapse")
    parser.add_argument("--postgres-pid", type=int, help="its first process, whose CPU and memory are added")
    parser.add_argument("--data", type=Path, help="where the servers keep their data (default: the cache)")
    arguments = parser.parse_args(argv)
    names = arguments.only.split(",") if arguments.only else []
    if unknown := [name for name in names if name not in SCENARIOS]:
        parser.error(f"no scenario {', '.join(unknown)}; there are {', '.join(SCENARIOS)}")
    arguments.scenarios = [
        scenario
        for name, scenario in SCENARIOS.items()
        if name in names or (not names and _by_default(scenario, arguments))
    ]
    if bool(arguments.weft_url) != bool(arguments.pid):
        parser.error("--weft-url and --pid belong together")
    if arguments.weft_url and urlsplit(arguments.weft_url).hostname not in (HOST, "localhost"):
        parser.error(f"load is sent to {HOST} only")
    return arguments


def _by_default(scenario: type[Scenario], arguments: argparse.Namespace) -> bool:
    """Whether a scenario runs when none is named: with replicas those that tell about them."""
    if arguments.replicas:
        return scenario.replicas > 0 or scenario in (Send, Fanout)
    return scenario.replicas == 0 and (arguments.full or not scenario.only_full)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _sizes(arguments: argparse.Namespace) -> Sizes:
    sizes = QUICK if arguments.quick else FULL if arguments.full else DEFAULT
    given = {
        "rounds": arguments.rounds,
        "polls": arguments.polls,
        "big_room": arguments.members,
        "big_state": arguments.state,
        "fill": arguments.events,
        "presence": arguments.presence,
    }
    return msgspec.structs.replace(sizes, **{name: value for name, value in given.items() if value})


def _cache() -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "weft" / "bench"


class _Run:
    """The servers of one run. `things` stops them, the last one first."""

    def __init__(self, arguments: argparse.Namespace, folder: Path, things: AsyncExitStack) -> None:
        self._arguments = arguments
        self._folder = folder
        self._things = things
        self._server_cores, self._driver_cores = cores_for_servers_and_driver()
        self._sizes = _sizes(arguments)

    async def measure(self) -> list[list[Target]]:
        """The servers that were compared, by table; none at all when Weft does not start."""
        arguments = self._arguments
        if all(scenario.pair for scenario in arguments.scenarios):
            return await self._pairs()
        parts: Parts | None = None
        compared: list[Target] = []
        if arguments.replicas:
            # As if on other machines: not on the core of the servers that are compared.
            parts = Parts(self._folder / "parts", self._driver_cores)
            self._things.callback(parts.stop)
            one = Replicas("replica", 1, self._folder / "one", self._server_cores, parts)
            await self._start(one, compared)
        if not await self._start_weft(compared):
            return []
        if not arguments.no_synapse:
            await self._start_synapse(compared)
        await self._conduct(compared, 1)
        tables = [compared, *await self._pairs()]
        if parts is None:
            return tables
        for target in compared:
            if target.server is not None:
                await target.server.stop()
        cores = self._server_cores | self._driver_cores
        parts.run_on(cores)
        several: list[Target] = []
        await self._start(Replicas("3 replicas", 3, self._folder / "several", cores, parts), several)
        await self._conduct(several, 3)
        return [*tables, several]

    async def _pairs(self) -> list[list[Target]]:
        """Two servers of each kind, where a scenario needs them."""
        if not any(scenario.pair for scenario in self._arguments.scenarios):
            return []
        authority = trustme.CA()
        pairs: list[Target] = []
        cores = self._server_cores
        if not self._arguments.no_weft:
            await self._start(weft_pair(self._folder / "weft-pair", cores, authority), pairs)
        if not self._arguments.no_synapse:
            python = await synapse.install(_cache(), postgres=False)
            await self._start(synapse_pair(self._folder / "synapse-pair", cores, python, authority), pairs)
        await self._conduct(pairs, 1)
        return [pairs]

    async def _conduct(self, targets: list[Target], replicas: int) -> None:
        chosen = [each for each in self._arguments.scenarios if (each.replicas > 1) == (replicas > 1)]
        chosen = [each for each in chosen if any(target.suits(each) for target in targets)]
        if targets and chosen:
            await conduct(targets, chosen, self._sizes, self._driver_cores)

    async def _start_weft(self, targets: list[Target]) -> bool:
        """Whether there is a Weft to compare with, or none is wanted."""
        arguments = self._arguments
        if arguments.weft_url:
            port = urlsplit(arguments.weft_url).port or 80
            targets.append(Target("Weft", f"Weft at {arguments.weft_url}", port, [arguments.pid], None))
        elif not arguments.no_weft:
            return await self._start(Weft(self._folder / "weft", self._server_cores), targets)
        return True

    async def _start_synapse(self, targets: list[Target]) -> None:
        """Without Synapse the run goes on."""
        try:
            database = await self._postgres()
            python = await synapse.install(_cache(), postgres=database is not None)
        except ServerFailed as failure:
            print(f"Synapse cannot be installed, so it is left out: {failure}", file=sys.stderr)
        else:
            folder = self._folder / "synapse"
            await self._start(synapse.Synapse(folder, self._server_cores, python, database), targets)

    async def _postgres(self) -> synapse.Postgres | None:
        """The database that was named; beside replicas one of our own, so that both have a server."""
        arguments = self._arguments
        if arguments.postgres:
            return synapse.Postgres(arguments.postgres, arguments.postgres_pid)
        if not arguments.replicas:
            return None
        try:
            server = PostgresServer(self._driver_cores)
            self._things.callback(server.stop)
            await server.ready()
        except ServerFailed as failure:
            print(f"Synapse runs on SQLite: {failure}", file=sys.stderr)
            return None
        return server.postgres

    async def _start(self, server: Server, targets: list[Target]) -> bool:
        self._things.push_async_callback(server.stop)
        try:
            started = await server.start()
        except ServerFailed as failure:
            print(failure, file=sys.stderr)
            return False
        target = Target(server.name, server.details, server.port, started.pids, server)
        figures = [
            Figure("first start, empty", "s", started.seconds),
            Figure("memory after the first start", "MiB", started.rss_mib),
        ]
        target.outcomes.append(Outcome(figures=figures))
        targets.append(target)
        return True


async def _bench(arguments: argparse.Namespace) -> int:
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    sizes = _sizes(arguments)
    server_cores, driver_cores = cores_for_servers_and_driver()
    base = arguments.data or _cache()
    base.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="run-", dir=base))
    begun, load = time.perf_counter(), os.getloadavg()[0]
    try:
        async with AsyncExitStack() as things:
            tables = await _Run(arguments, folder, things).measure()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    targets = [target for each in tables for target in each]
    about = [
        *(target.details for target in targets),
        f"servers on core {_list(server_cores)}, one awake at a time; driver on core {_list(driver_cores)}",
        f"Python {platform.python_version()}; medians of {sizes.rounds} round(s)",
        f"took {time.perf_counter() - begun:.0f} s; "
        f"load of the machine {load:.1f} before, {os.getloadavg()[0]:.1f} after",
    ]
    if not targets:
        return 1
    summaries = {target.name: summarize(target.outcomes) for target in targets}
    print("\n".join(about))
    for each in tables:
        _print({target.name: summaries[target.name] for target in each})
    for summary in summaries.values():
        _print_model(summary)
    if arguments.json:
        raw = {
            "about": about,
            "sizes": sizes,
            "medians": summaries,
            "rounds": {target.name: target.outcomes for target in targets},
        }
        arguments.json.write_bytes(msgspec.json.format(msgspec.json.encode(raw), indent=1) + b"\n")
    return 1 if any(summary.mistakes for summary in summaries.values()) else 0


def _print_model(summary: Summary) -> None:
    """What more replicas could do, where it was measured what they cost."""
    figures = {name: figure.value for name, figure in summary.figures.items()}
    try:
        costs = scaling_model.Measured.of(figures).costs()
    except KeyError:
        return
    print("\nsimulated with these costs, a core for each replica and each primary:")
    print(*scaling_model.table(costs), sep="\n")


def _print(summaries: dict[str, Summary]) -> None:
    print("", table(summaries), sep="\n")
    if len(summaries) > 1:
        print(f"×: how many times better {next(iter(summaries))} is; below 1 it is worse.")
    print("CPU is the server's, per operation, until it is quiet again; RSS is that after the operation.")
    if any(row.driver_share > BUSY_DRIVER for summary in summaries.values() for row in summary.rows.values()):
        print(f"*: the driver used more than {BUSY_DRIVER:.0%} of its core, so it may be what was measured.")
    for name, summary in summaries.items():
        print(f"wrong answers of {name}: {sum(summary.mistakes.values())}")
        for what, count in summary.mistakes.items():
            print(f"  {count} × {what}")


def _list(cores: set[int]) -> str:
    return ", ".join(map(str, sorted(cores)))


def main(argv: Sequence[str]) -> int:
    if argv[:1] == ["micro"]:
        from bench.micro import run

        return run(argv[1:])
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, hard), hard))  # two descriptors for each poll
    try:
        return asyncio.run(_bench(_arguments(argv)))
    except asyncio.CancelledError:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
