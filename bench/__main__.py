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
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from bench import synapse
from bench.conductor import Target, conduct, cores_for_servers_and_driver
from bench.report import BUSY_DRIVER, Summary, summarize, table
from bench.results import Figure, Outcome
from bench.scenarios import SCENARIOS
from bench.server import HOST, Server, ServerFailed
from bench.sizes import DEFAULT, FULL, QUICK, Sizes
from bench.weft import Weft


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
    parser.add_argument("--events", type=_positive, help="events stored before the timed start")
    parser.add_argument("--presence", choices=["offline", "unavailable", "online"], help="of syncing clients")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all figures there")
    parser.add_argument("--no-synapse", action="store_true", help="Weft alone")
    parser.add_argument("--no-weft", action="store_true", help="Synapse alone, to check the driver")
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
        if name in names or (not names and (arguments.full or not scenario.only_full))
    ]
    if bool(arguments.weft_url) != bool(arguments.pid):
        parser.error("--weft-url and --pid belong together")
    if arguments.weft_url and urlsplit(arguments.weft_url).hostname not in (HOST, "localhost"):
        parser.error(f"load is sent to {HOST} only")
    return arguments


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
        "fill": arguments.events,
        "presence": arguments.presence,
    }
    return msgspec.structs.replace(sizes, **{name: value for name, value in given.items() if value})


def _cache() -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "weft" / "bench"


async def _targets(arguments: argparse.Namespace, folder: Path, cores: set[int]) -> list[Target]:
    """Starts the servers. Without Synapse the run goes on, without Weft there is nothing to compare."""
    targets: list[Target] = []
    if arguments.weft_url:
        port = urlsplit(arguments.weft_url).port or 80
        targets.append(Target("Weft", f"Weft at {arguments.weft_url}", port, [arguments.pid], None))
    elif not arguments.no_weft:
        await _start(Weft(folder / "weft", cores), targets)
        if not targets:
            return []
    if not arguments.no_synapse:
        try:
            python = await synapse.install(_cache(), postgres=arguments.postgres is not None)
        except ServerFailed as failure:
            print(f"Synapse cannot be installed, so it is left out: {failure}", file=sys.stderr)
        else:
            database = None
            if arguments.postgres:
                database = synapse.Postgres(arguments.postgres, arguments.postgres_pid)
            await _start(synapse.Synapse(folder / "synapse", cores, python, database), targets)
    return targets


async def _start(server: Server, targets: list[Target]) -> None:
    try:
        started = await server.start()
    except ServerFailed as failure:
        print(failure, file=sys.stderr)
        return
    target = Target(server.name, server.details, server.port, started.pids, server)
    figures = [
        Figure("first start, empty", "s", started.seconds),
        Figure("memory after the first start", "MiB", started.rss_mib),
    ]
    target.outcomes.append(Outcome(figures=figures))
    targets.append(target)


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
    targets: list[Target] = []
    begun, load = time.perf_counter(), os.getloadavg()[0]
    try:
        targets = await _targets(arguments, folder, server_cores)
        if targets:
            await conduct(targets, arguments.scenarios, sizes, driver_cores)
    finally:
        for target in targets:
            if target.server is not None:
                await target.server.stop()
        shutil.rmtree(folder, ignore_errors=True)
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
    _print(about, summaries)
    if arguments.json:
        raw = {
            "about": about,
            "sizes": sizes,
            "medians": summaries,
            "rounds": {target.name: target.outcomes for target in targets},
        }
        arguments.json.write_bytes(msgspec.json.format(msgspec.json.encode(raw), indent=1) + b"\n")
    return 1 if any(summary.mistakes for summary in summaries.values()) else 0


def _print(about: Sequence[str], summaries: dict[str, Summary]) -> None:
    print("\n".join(about), end="\n\n")
    print(table(summaries))
    if len(summaries) == 2:
        first, second = summaries
        print(f"×: how many times better {first} is than {second}; below 1 it is worse.")
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
