"""What the server tells of itself in numbers, in the form of Prometheus (option `metrics.listen`).

Hot paths know nothing of it: whatever works there counts in plain attributes of its own, and `ServerMetrics`
reads them when somebody asks. The names are documented in docs/admin-guide.md.
"""

import gc
import platform
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from time import perf_counter

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from homeserver import __version__
from homeserver.bus.consumer import Consumer
from homeserver.bus.replica import Replica
from homeserver.destinations import Destinations
from homeserver.histogram import Histogram, merged
from homeserver.rate_limits import RateLimits
from homeserver.rooms.rooms import Rooms
from homeserver.shard_writer import BATCH_SIZES
from homeserver.sync.long_polls import LongPolls
from homeserver.users.users import Users

LATENCIES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Seconds."""
PAUSES = (0.0001, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
"""Seconds."""


class Metered:
    """The requests that one route has answered."""

    __slots__ = ("latency", "statuses")

    def __init__(self) -> None:
        self.latency = Histogram(LATENCIES)
        self.statuses: dict[int, int] = {}

    def answered(self, status: int, seconds: float) -> None:
        self.latency.observe(seconds)
        self.statuses[status] = self.statuses.get(status, 0) + 1


class Requests:
    """The requests of all routes, by path and method."""

    def __init__(self) -> None:
        self._routes: dict[tuple[str, str], Metered] = {}

    def of(self, path: str, method: str) -> Metered:
        return self._routes.setdefault((path, method), Metered())

    def used(self) -> Iterator[tuple[str, str, Metered]]:
        """(path, method, route) of those that have answered something."""
        for (path, method), route in self._routes.items():
            if route.statuses:
                yield path, method, route


class GcPauses:
    """How long the garbage collector stopped everything else, by generation."""

    def __init__(self) -> None:
        """Watches from now on, for as long as the process lives."""
        self.seconds = [Histogram(PAUSES) for _ in gc.get_count()]
        self._began = 0.0
        gc.callbacks.append(self._on_phase)

    def _on_phase(self, phase: str, info: Mapping[str, int]) -> None:
        if phase == "start":
            self._began = perf_counter()
        else:
            self.seconds[info["generation"]].observe(perf_counter() - self._began)


DESTINATIONS_SHOWN = 20


class ServerMetrics(Collector):
    """Reads what the parts of a server have counted."""

    def __init__(
        self,
        *,
        requests: Requests,
        rooms: Rooms,
        users: Users,
        long_polls: LongPolls,
        limits: RateLimits,
        replica: Replica,
        consumers: Sequence[Consumer],
        destinations: Destinations | None,
        edus_dropped: Mapping[str, int],
        staged: Callable[[], tuple[int, float]],
        pauses: GcPauses,
    ) -> None:
        """`staged`: how many events of other servers wait for what they follow upon, and the first of them
        for how many seconds."""
        self._requests = requests
        self._rooms = rooms
        self._users = users
        self._long_polls = long_polls
        self._limits = limits
        self._replica = replica
        self._consumers = consumers
        self._destinations = destinations
        self._edus_dropped = edus_dropped
        self._staged = staged
        self._pauses = pauses

    def collect(self) -> Iterator[Metric]:
        build = {"version": __version__, "python": platform.python_version()}
        yield _gauge("weft_build", "Which release runs; always 1.", [(build.values(), 1)], *build)
        yield from self._answers()
        yield from self._memory()
        yield from self._log()
        yield from self._behind_the_log()
        yield from self._other_servers()
        yield _value("weft_shards_owned", "Shards owned by this replica.", len(self._replica.ownership.own))
        yield _value("weft_bus_connected", "1 while the bus is there.", self._replica.connected)
        yield _histogram(
            "weft_gc_pause_seconds",
            "Pauses for the garbage collector.",
            [((str(generation),), seconds) for generation, seconds in enumerate(self._pauses.seconds)],
            "generation",
        )

    def _answers(self) -> Iterator[Metric]:
        used = list(self._requests.used())
        yield _counter(
            "weft_requests",
            "Requests answered.",
            [
                ((path, method, str(status)), count)
                for path, method, route in used
                for status, count in route.statuses.items()
            ],
            *("route", "method", "status"),
        )
        yield _histogram(
            "weft_request_seconds",
            "Time from a request's headers to its answer; of long-polls, with the waiting.",
            [((path, method), route.latency) for path, method, route in used],
            *("route", "method"),
        )
        yield _value("weft_long_polls", "Polls that wait for news.", self._long_polls.count)
        refused = [((name,), count) for name, count in self._limits.refused().items()]
        yield _counter("weft_rate_limited", "Requests refused by a rate limit.", refused, "limit")

    def _memory(self) -> Iterator[Metric]:
        rooms, size = self._rooms.in_memory()
        budget, most = self._rooms.memory_budget, self._users.max_users
        yield _value("weft_rooms_in_memory", "Rooms in memory.", rooms)
        yield _value("weft_room_memory_bytes", "What they take, as estimated.", size)
        yield _value("weft_room_memory_limit_bytes", "Above this, rooms are put out of memory.", budget)
        yield _value("weft_users_in_memory", "Users in memory.", self._users.in_memory())
        yield _value("weft_users_in_memory_limit", "Above this, users are put out of memory.", most)

    def _log(self) -> Iterator[Metric]:
        families = {
            ("rooms",): list(self._rooms.writers.values()),
            ("users",): list(self._users.writers.values()),
        }
        writers = [writer for family in families.values() for writer in family]
        tails = [((str(writer.shard),), writer.tail) for writer in writers]
        yield _gauge("weft_log_tail", "Number of the shard's last entry known here.", tails, "shard")
        yield _histogram(
            "weft_append_entries",
            "Entries of each append to the log made here.",
            [
                (name, merged(BATCH_SIZES, (writer.appended for writer in family)))
                for name, family in families.items()
            ],
            "family",
        )
        yield _counter(
            "weft_append_conflicts",
            "Appends that another replica was ahead of.",
            [(name, sum(writer.conflicts for writer in family)) for name, family in families.items()],
            "family",
        )
        failures = [
            (("log",), sum(writer.failures for writer in writers)),
            (("consumers",), sum(consumer.failures for consumer in self._consumers)),
        ]
        yield _counter("weft_store_errors", "What the store could not do, by who had asked.", failures, "by")

    def _behind_the_log(self) -> Iterator[Metric]:
        lags = [
            ((consumer.name, str(shard)), lag)
            for consumer in self._consumers
            for shard, lag in consumer.lag().items()
        ]
        yield _gauge("weft_consumer_lag", "Entries that wait for a consumer.", lags, "consumer", "shard")
        set_aside: Counter[str] = Counter()
        for consumer in self._consumers:
            set_aside[consumer.name] += consumer.set_aside
        yield _counter(
            "weft_consumer_set_aside",
            "Entries that a consumer could not handle and went past; the server's log has the reasons.",
            [((name,), count) for name, count in set_aside.items()],
            "consumer",
        )

    def _other_servers(self) -> Iterator[Metric]:
        yield _counter(
            "weft_edus_dropped",
            "EDUs of other servers that were malformed, or not theirs to say.",
            [((edu_type,), count) for edu_type, count in self._edus_dropped.items()],
            "type",
        )
        staged, seconds = self._staged()
        yield _value("weft_staged_events", "Events that wait for what they follow upon.", staged)
        yield _value("weft_staged_events_age_seconds", "How long the first of them has waited.", seconds)
        known = self._destinations.known() if self._destinations is not None else ()
        failing = sum(1 for state in known if state.failing_since)
        yield _gauge(
            "weft_destinations",
            "Other servers to which something was sent, or that do not answer.",
            [(("answers",), len(known) - failing), (("silent",), failing)],
            "state",
        )
        waiting = sum(state.waiting for state in known)
        yield _value("weft_destinations_waiting", "Things in memory to be sent to other servers.", waiting)
        farthest = sorted(known, key=lambda state: state.lag, reverse=True)[:DESTINATIONS_SHOWN]
        yield _gauge(
            "weft_destination_lag",
            "Entries of the log that a server may have missed, of those that have missed most.",
            [((state.server_name,), state.lag) for state in farthest if state.lag],
            "destination",
        )


def registry_of(metrics: ServerMetrics) -> CollectorRegistry:
    """What is told: the server's own metrics and those of its process."""
    registry = CollectorRegistry()
    registry.register(metrics)
    ProcessCollector(registry=registry)
    return registry


_Samples = Iterable[tuple[Iterable[str], float]]
"""Values, each behind those of the labels."""


def _value(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value)


def _gauge(name: str, text: str, samples: _Samples, *labels: str) -> Metric:
    family = GaugeMetricFamily(name, text, labels=labels)
    for key, value in samples:
        family.add_metric(list(key), value)
    return family


def _counter(name: str, text: str, samples: _Samples, *labels: str) -> Metric:
    family = CounterMetricFamily(name, text, labels=labels)
    for key, value in samples:
        family.add_metric(list(key), value)
    return family


def _histogram(
    name: str, text: str, samples: Iterable[tuple[Sequence[str], Histogram]], *labels: str
) -> Metric:
    family = HistogramMetricFamily(name, text, labels=labels)
    for key, histogram in samples:
        bounds = (*map(str, histogram.bounds), "+Inf")
        family.add_metric(key, list(zip(bounds, accumulate(histogram.counts), strict=True)), histogram.total)
    return family
