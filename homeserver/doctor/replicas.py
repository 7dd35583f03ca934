"""The servers that run: whether each shard has one owner that lives, and whether their work is done."""

from collections import defaultdict
from collections.abc import Iterator, Mapping

from homeserver.doctor.findings import Finding, fail, ok, warn
from homeserver.doctor.health import Health

SKEW_MS = 2_000
LONG_LAG = 1_000
"""Entries."""


def replica_findings(here: str, replicas: Mapping[str, Health | None], now: int) -> Iterator[Finding]:
    """What is the matter with replicas by address (None: silent), one of which, `here`, was asked first."""
    alive = {address: health for address, health in replicas.items() if health is not None}
    own = alive[here]
    for address in replicas.keys() - alive.keys():
        yield fail(
            "replicas",
            f"{address} owns shards and does not answer",
            "start it, or wait for the others to take over; if it runs, open the way to it (bus.address)",
        )
    versions = {health.version for health in alive.values()}
    if len(versions) > 1:
        yield warn("replicas", f"of releases {', '.join(sorted(versions))}", "finish the upgrade")
    else:
        yield ok("replicas", f"{len(alive)} running, release {own.version}")
    for address, health in alive.items():
        if abs(health.now - now) > SKEW_MS:
            apart = f"the clock of {address} is {abs(health.now - now)} ms from the one here"
            yield warn("clock", apart, "run an NTP client on both machines")
        if not health.connected:
            text = f"{address} has lost the bus; it reads the log instead"
            yield fail("bus", text, "look at the brokers and the way to them")
    yield from _ownership(own, alive)
    yield from _work(alive)


def _ownership(own: Health, alive: Mapping[str, Health]) -> Iterator[Finding]:
    owners: dict[int, list[str]] = defaultdict(list)
    for address, health in alive.items():
        for shard in health.own:
            owners[shard].append(address)
    shards = sorted({*own.owners, *owners})
    if not shards:
        text = "none has an owner: nothing is done behind the log, nor sent to other servers"
        yield fail("shards", text, "look into the server's log for why it is not in the group of replicas")
        return
    for shard in shards:
        match owners.get(shard, []):
            case []:
                text = f"shard {shard} has no owner that lives"
                yield fail("shards", text, "wait some seconds and look again; then start another replica")
            case [_]:
                continue
            case several:
                text = f"shard {shard} has {len(several)} owners: {', '.join(sorted(several))}"
                yield fail("shards", text, "wait some seconds and look again; then restart one of them")
    if all(len(owners.get(shard, [])) == 1 for shard in shards):
        yield ok("shards", f"each of {len(shards)} has one owner")


def _work(alive: Mapping[str, Health]) -> Iterator[Finding]:
    lagging = False
    for address, health in alive.items():
        for consumer, lags in health.lags.items():
            for shard, lag in lags.items():
                if lag > LONG_LAG:
                    lagging = True
                    text = f"{consumer} at {address} is {lag} entries behind in shard {shard}"
                    yield warn(
                        "consumers", text, "it catches up by itself; if not, look into that server's log"
                    )
        for consumer, count in health.set_aside.items():
            if count:
                text = f"{consumer} at {address} could not handle {count} entries and went past them"
                yield fail("consumers", text, 'look for "entry set aside" in the log of that server')
    if not lagging:
        yield ok("consumers", "none is far behind")
