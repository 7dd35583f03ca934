"""What a measurement yields, and the messages between the conductor and a driver process (JSON lines)."""

import math
from collections.abc import Sequence

import msgspec

from bench.sizes import Sizes


class Row(msgspec.Struct, frozen=True):
    """One kind of operation, measured once. Times are milliseconds; CPU is the server's, per operation."""

    name: str
    ops: int
    per_second: float
    p50_ms: float
    p99_ms: float
    cpu_ms: float
    rss_mib: float
    driver_share: float = 0.0  # of one core, used by the driver meanwhile


class Figure(msgspec.Struct, frozen=True):
    """A single number of which less is better."""

    name: str
    unit: str
    value: float


class Outcome(msgspec.Struct, tag=True):
    """What one round of one scenario against one server gave."""

    rows: list[Row] = []
    figures: list[Figure] = []
    mistakes: dict[str, int] = {}  # what was wrong, and how often
    scenario: str = ""
    seconds: float = 0.0  # that it all took, set-up included


class ReplicaAt(msgspec.Struct, frozen=True):
    """Where one of several replicas is: its ports for clients and for metrics, and its process."""

    port: int
    metrics: int
    pid: int


class OwnName(msgspec.Struct, frozen=True):
    """What the driver of a pair is called among servers: a loopback address, and files that prove it."""

    name: str
    port: int
    certificate: str
    key: str
    authority: str


class Attach(msgspec.Struct, frozen=True):
    """The first line to a driver: its server, and how much to measure."""

    host: str
    port: int
    pids: list[int]
    can_restart: bool
    sizes: Sizes
    replicas: list[ReplicaAt] = []
    database: str = ""  # URI of the replicas' MongoDB
    beside: dict[str, int] = {}  # what runs beside the replicas, and its process
    server_name: str = ""  # of a pair's first server
    other: int = 0  # port of its second
    own_name: OwnName | None = None  # with a pair


class Restart(msgspec.Struct, tag=True, frozen=True):
    """The driver asks for its server to be stopped and started again on the same data."""


class Restarted(msgspec.Struct, tag=True, frozen=True):
    """The answer: the new process, what starting cost, and the data's size while the server was down."""

    pids: list[int]
    seconds: float
    cpu_seconds: float
    rss_mib: float
    disk_bytes: int


class Run(msgspec.Struct, tag=True, frozen=True):
    """The conductor asks for one round of a scenario."""

    scenario: str


FromDriver = Outcome | Restart
ToDriver = Run | Restarted


def quantile(values: Sequence[float], q: float) -> float:
    """The nearest-rank quantile; 0 of nothing."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[max(0, math.ceil(q * len(ordered)) - 1)]
