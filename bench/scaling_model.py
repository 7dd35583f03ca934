"""What many replicas can do: a queueing simulation with the service times that a run has measured on few.

Each replica is one core that takes its work in order. A message arrives at any replica, which passes it to
the owner of its room's shard; the owner builds it, commits what gathered meanwhile as one batch, and answers.
The database works on a batch for as long as it has entries, and its journal adds a delay that others overlap.
Every other replica follows the entries, and each waiting reader costs the replica where it waits.

The model leaves out: idle work, garbage collection, the brokers (a batch costs them less than it costs the
database), and retries. Arrivals are random (Poisson), readers and shards are spread evenly.
"""

import heapq
import itertools
import random
from collections.abc import Callable, Mapping
from typing import NamedTuple

REPLICAS = (1, 2, 4, 8, 16, 32, 64)
ROOM_SHARDS = 64
READERS = 5
LOAD = 0.7
"""Of what the installation can do."""
BATCH = 2.0
"""Messages in a commit of one replica that is not overloaded."""


class Costs(NamedTuple):
    """Seconds; those of the replicas are CPU."""

    send: float
    """Of a message at the owner: request, checks, signature, its part of the commit, publishing."""
    commit: float
    """Of a batch at the owner, beside its messages."""
    passed_on: float
    """Of a message at a replica that hands it to the owner, beside following it."""
    follow: float
    """Of a message at each replica that only reads along."""
    deliver: float
    """Of an answer to a reader that waits, the next poll included."""
    database_batch: float
    database_entry: float
    """CPU of the database's primary for a batch, and for each entry of it."""
    journal: float
    """From the end of that to the acknowledgement: time, not work."""


class Measured(NamedTuple):
    """What the scenario "costs" measures: seconds of CPU for a message unless it says otherwise."""

    owner_alone: float
    owner_in_batches: float
    batch: float
    """Messages in an append of `…_in_batches`."""
    passed_on: float
    """At a replica that hands it to the owner, and then reads along."""
    read_along: float
    nobody_there: float
    """At a replica where none of the room's users is online: it does not have the room in memory."""
    delivered: float
    """For one reader who waits at a replica, following and the next poll included."""
    database_alone: float
    database_in_batches: float
    broker_alone: float
    broker_in_batches: float
    single_insert: float
    """The time, not CPU, that the database takes for one document."""

    def figures(self) -> dict[str, tuple[str, float]]:
        """Names for people, with unit and value."""
        return {
            name: ("µs", getattr(self, field) * 1e6) if field != "batch" else ("", self.batch)
            for field, name in _NAMES.items()
        }

    @classmethod
    def of(cls, figures: Mapping[str, float]) -> "Measured":
        """The inverse. Raises KeyError."""
        return cls(**{f: figures[name] / (1 if f == "batch" else 1e6) for f, name in _NAMES.items()})

    def costs(self) -> Costs:
        """Each message costs, and so does each batch: what is saved in batches tells them apart."""
        saved = 1 - 1 / max(2.0, self.batch)
        commit = max(0.0, self.owner_alone - self.owner_in_batches) / saved
        database_batch = max(0.0, self.database_alone - self.database_in_batches) / saved
        return Costs(
            send=self.owner_alone - commit,
            commit=commit,
            passed_on=max(0.0, self.passed_on - self.read_along),
            follow=self.read_along,
            deliver=self.delivered,
            database_batch=database_batch,
            database_entry=self.database_alone - database_batch,
            journal=max(0.0, self.single_insert - self.database_alone),
        )


_NAMES = {
    "owner_alone": "message at its owner, one at a time, CPU",
    "owner_in_batches": "message at its owner, 50 at once, CPU",
    "batch": "messages in an append, 50 at once",
    "passed_on": "message at a replica that passes it on, CPU",
    "read_along": "message at a replica that reads along, CPU",
    "nobody_there": "message at a replica where no member is online, CPU",
    "delivered": "message for one reader who waits, CPU",
    "database_alone": "message at the database, one at a time, CPU",
    "database_in_batches": "message at the database, 50 at once, CPU",
    "broker_alone": "message at the broker, one at a time, CPU",
    "broker_in_batches": "message at the broker, 50 at once, CPU",
    "single_insert": "bare insert of one document, time",
}


class Installation(NamedTuple):
    """How many of what."""

    replicas: int
    room_shards: int
    databases: int
    """Primaries, each one core; the log is spread over them by shard."""
    readers: int
    """Who wait for news of a room, on average: each message is delivered to so many."""
    hot: float = 0.0
    """Share of the messages that go to one and the same room."""


class Outcome(NamedTuple):
    """What came of a load."""

    offered: float
    """Messages a second."""
    done: float
    """Messages a second that were answered, until all is done that they cause."""
    send_p50: float
    send_p99: float
    deliver_p50: float
    deliver_p99: float
    busiest: float
    """Share of the time in which the busiest replica worked."""


def capacity(costs: Costs, plan: Installation, *, batch: float = BATCH) -> float:
    """Messages a second at which the first core of all is busy all the time, with batches of that size."""
    owner = costs.send + costs.commit / batch
    others = plan.replicas - 1
    work = (
        owner
        + costs.passed_on * others / plan.replicas
        + costs.follow * others
        + costs.deliver * plan.readers
    )
    owners = min(plan.replicas, plan.room_shards)
    # The busiest replica owns a hot room beside its share of the others, and does its share of the rest.
    share = plan.hot + (1 - plan.hot) / owners
    busiest = owner * share + (work - owner) / plan.replicas
    database = (costs.database_entry + costs.database_batch / batch) * max(plan.hot, 1 / plan.databases)
    return 1 / max(busiest, database)


class _Core:
    """Does work in the order in which it comes."""

    def __init__(self) -> None:
        self.free_at = 0.0
        self.worked = 0.0

    def take(self, now: float, seconds: float) -> float:
        """When work that comes now is done."""
        self.free_at = max(self.free_at, now) + seconds
        self.worked += seconds
        return self.free_at


class _Message(NamedTuple):
    arrived: float
    at: int
    owner: int
    database: int


class Simulation:
    """One load on one installation."""

    def __init__(self, costs: Costs, plan: Installation, seed: int) -> None:
        self._costs = costs
        self._plan = plan
        self._random = random.Random(seed)
        self._replicas = [_Core() for _ in range(plan.replicas)]
        self._databases = [_Core() for _ in range(plan.databases)]
        self._gathered: list[list[_Message]] = [[] for _ in self._replicas]
        self._committing = [False] * plan.replicas
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._order = itertools.count()
        self._sent: list[float] = []
        self._delivered: list[float] = []

    def run(self, rate: float, messages: int) -> Outcome:
        """`messages` arrivals at `rate` a second; the first tenth is not counted."""
        now = 0.0
        for _ in range(messages):
            now += self._random.expovariate(rate)
            self._at(now, self._arrival(now))
        while self._events:
            moment, _, happen = heapq.heappop(self._events)
            happen(moment)
        end = max(core.free_at for core in self._replicas)
        sent, delivered = (sorted(times[len(times) // 10 :]) for times in (self._sent, self._delivered))
        return Outcome(
            offered=rate,
            done=messages / end,
            send_p50=_percentile(sent, 0.5),
            send_p99=_percentile(sent, 0.99),
            deliver_p50=_percentile(delivered, 0.5),
            deliver_p99=_percentile(delivered, 0.99),
            busiest=max(core.worked for core in self._replicas) / end,
        )

    def _at(self, moment: float, happen: Callable[[float], None]) -> None:
        heapq.heappush(self._events, (moment, next(self._order), happen))

    def _arrival(self, now: float) -> Callable[[float], None]:
        plan, choose = self._plan, self._random
        shard = 0 if choose.random() < plan.hot else choose.randrange(plan.room_shards)
        message = _Message(
            now, choose.randrange(plan.replicas), shard % plan.replicas, shard % plan.databases
        )
        return lambda moment: self._arrived(moment, message)

    def _arrived(self, now: float, message: _Message) -> None:
        if message.at != message.owner:
            now = self._replicas[message.at].take(now, self._costs.passed_on)
        self._at(now, lambda moment: self._at_owner(moment, message))

    def _at_owner(self, now: float, message: _Message) -> None:
        built = self._replicas[message.owner].take(now, self._costs.send)
        self._at(built, lambda moment: self._gather(moment, message))

    def _gather(self, now: float, message: _Message) -> None:
        self._gathered[message.owner].append(message)
        if not self._committing[message.owner]:
            self._commit(now, message.owner)

    def _commit(self, now: float, owner: int) -> None:
        """One at a time for each replica: what comes meanwhile makes the next batch."""
        costs = self._costs
        batch, self._gathered[owner] = self._gathered[owner], []
        self._committing[owner] = bool(batch)
        if not batch:
            return
        handed_over = self._replicas[owner].take(now, costs.commit)
        done = 0.0
        for number, database in enumerate(self._databases):
            entries = sum(message.database == number for message in batch)
            if entries:
                work = costs.database_batch + entries * costs.database_entry
                done = max(done, database.take(handed_over, work))
        self._at(done + costs.journal, lambda moment: self._durable(moment, owner, batch))

    def _durable(self, now: float, owner: int, batch: list[_Message]) -> None:
        for message in batch:
            self._sent.append(now - message.arrived)
        self._commit(now, owner)
        for number, replica in enumerate(self._replicas):
            if number != owner:
                replica.take(now, self._costs.follow * len(batch))
            self._deliver(now, number, batch)

    def _deliver(self, now: float, number: int, batch: list[_Message]) -> None:
        """To the readers who wait at one replica: its part of all of them, rounded by chance."""
        for message in batch:
            part = self._plan.readers / self._plan.replicas
            for _ in range(int(part) + (self._random.random() < part % 1)):
                told = self._replicas[number].take(now, self._costs.deliver)
                self._delivered.append(told - message.arrived)


def _percentile(ordered: list[float], share: float) -> float:
    return ordered[int(share * (len(ordered) - 1))] if ordered else 0.0


def table(costs: Costs, *, seed: int = 1, messages: int = 20_000) -> list[str]:
    """What 1 to 64 replicas can do, in lines of Markdown."""
    lines = [
        "| Replicas | Primaries | Can do, messages/s | Each replica's part | p50 / p99 of a send, ms "
        "| p50 / p99 of a delivery, ms | Busiest replica |",
        "|---|---|---|---|---|---|---|",
    ]
    alone = 0.0
    for replicas in REPLICAS:
        plan = Installation(replicas, ROOM_SHARDS, 1, READERS)
        plan = plan._replace(databases=_primaries(costs, plan))
        most = capacity(costs, plan)
        alone = alone or most
        out = Simulation(costs, plan, seed).run(most * LOAD, messages)
        lines.append(
            f"| {replicas} | {plan.databases} | {most:,.0f} | {most / alone / replicas:.0%} "
            f"| {out.send_p50 * 1000:.1f} / {out.send_p99 * 1000:.1f} "
            f"| {out.deliver_p50 * 1000:.1f} / {out.deliver_p99 * 1000:.1f} | {out.busiest:.0%} |"
        )
    return lines


def _primaries(costs: Costs, plan: Installation) -> int:
    """So many that the replicas, not they, are the limit."""
    replicas_alone = capacity(costs._replace(database_batch=0.0, database_entry=0.0), plan)
    databases_alone = 1 / (costs.database_entry + costs.database_batch / BATCH)
    return 1 + int(replicas_alone / databases_alone)
