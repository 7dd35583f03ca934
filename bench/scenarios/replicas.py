"""Several replicas on one database and one broker: what they cost, how they share work, how they catch up."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from statistics import median
from typing import Any

from pymongo import AsyncMongoClient, WriteConcern
from pymongo.asynchronous.collection import AsyncCollection

from bench import proc
from bench.crowd import Crowd, Crowds
from bench.load import Load
from bench.metrics import divided, metrics_at, owned, shards
from bench.scaling_model import Measured
from bench.scenarios.scenario import Scenario
from bench.scenarios.send import Sender
from storage.log import ShardMap
from storage.mongo.schema import LOG, LOG_INDEXES, row_id

_USERS = 10
_ROOMS = 8
_READERS = 20
_AT_ONCE = (1, 50)
_IDLE_SECONDS = 3.0
_SETTLE_SECONDS = 3.0
_PAUSE_SECONDS = 0.05
_LOOK_SECONDS = 0.05
_CAUGHT_UP_SECONDS = 300.0
_CEILING = "bench_ceiling"
_SINGLE_INSERTS = 200

_Documents = AsyncCollection[dict[str, Any]]


class Ceiling(Scenario):
    """What the database itself takes, beside what Weft makes of it: the same documents, as many at once."""

    name = "ceiling"
    about = "sends to one replica, beside inserts of the same documents by the bare driver"
    replicas = 1

    async def prepare(self) -> None:
        self.users = await self.load.accounts(_USERS)
        self.rooms = [await self.load.room(self.users) for _ in range(_USERS)]

    async def measure(self) -> None:
        load, at_once = self.load, self.sizes.send[-1]
        async with Database(load.attach.database) as database:
            sender = Sender(load, self.users, self.rooms, load.new_name())
            before = await database.appended()
            await load.loop(f"send to a replica, {at_once} at once", at_once, sender.request, sender.check)
            batch = await database.batch_since(before)
            load.figure(f"documents in an append, {at_once} at once", "", batch)
            async with load.section(f"bare inserts of {round(batch)} documents") as section:
                begun = time.perf_counter()
                async for seconds in database.bare_inserts(round(batch)):
                    section.latencies += [seconds] * round(batch)
                    if time.perf_counter() - begun > self.sizes.seconds:
                        break
                section.seconds = time.perf_counter() - begun


class Database:
    """The replicas' database, seen from beside them."""

    def __init__(self, uri: str) -> None:
        self._client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(uri)
        self._log: _Documents = self._client.get_default_database()[LOG]

    async def __aenter__(self) -> "Database":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def appended(self) -> tuple[int, int]:
        """Inserts into the log so far, and documents in it."""
        totals = (await self._client.admin.command("top"))["totals"]
        return totals[self._log.full_name]["insert"]["count"], await self._log.estimated_document_count()

    async def batch_since(self, before: tuple[int, int]) -> float:
        """Documents in each insert since then."""
        inserts, documents = await self.appended()
        return (documents - before[1]) / max(1, inserts - before[0])

    async def bare_inserts(self, batch: int) -> AsyncIterator[float]:
        """Insert the log's newest documents again, in a collection like it; the seconds of each insert."""
        samples = await self._log.find({}, hint="_id_").sort("_id", -1).limit(batch).to_list()
        bare = self._log.database.get_collection(_CEILING, write_concern=WriteConcern("majority", j=True))
        await bare.drop()
        await bare.create_indexes(LOG_INDEXES)
        seq = 0
        try:
            while True:
                fresh = []
                for sample in samples:
                    seq += 1
                    unique = {"_id": row_id(0, seq), "shard": 0, "event_id": f"${seq:043}", "pos": seq}
                    fresh.append(sample | unique | {"txn": b"%016d" % seq})
                begun = time.perf_counter()
                await bare.insert_many(fresh)
                yield time.perf_counter() - begun
        finally:
            await bare.drop()


class _Replicated(Scenario):
    """What scenarios on several replicas share."""

    replicas = 3

    def __init__(self, load: Load, crowds: Crowds) -> None:
        super().__init__(load, crowds)
        self.at = load.attach.replicas

    async def prepare(self) -> None:
        self.users = await self.load.accounts(_USERS)

    async def rooms_of(self, replica: int, count: int) -> list[str]:
        """New rooms of all users, in shards that this replica owns."""
        metrics = await metrics_at(self.at[replica].metrics)
        own, all_shards = owned(metrics), shards(metrics, "weft_log_tail")
        room_shards = sum(shard < ShardMap.USER_BASE for shard in all_shards)
        shard_map = ShardMap(room_shards, len(all_shards) - room_shards)
        rooms: list[str] = []
        while len(rooms) < count:
            room = await self.load.room(self.users[:1])
            if shard_map.of_room(room) in own:
                for user in self.users[1:]:
                    await self.load.call(self.load.api.join(user, room))
                rooms.append(room)
        return rooms

    async def meet(self, replica: int, since: str = "") -> None:
        """Let a user look at their rooms there, so that the replica has them in memory."""
        await self.load.call(self.load.api.sync(self.users[0], since), self.at[replica].port)

    async def send(self, name: str, rooms: list[str], *replicas: int, seconds: float | None = None) -> None:
        """Fifty at once, spread over these replicas; then all of it must be in the rooms."""
        load, at_once = self.load, self.sizes.send[-1]
        sender = Sender(load, self.users, rooms, load.new_name())
        ports = [self.at[number].port for number in replicas]
        await load.loop(name, at_once, sender.request, sender.check, ports=ports, seconds=seconds)
        await sender.ledger.verify(load, self.users[0])

    @asynccontextmanager
    async def only(self, *running: int) -> AsyncIterator[None]:
        """None but these replicas run, and all shards are theirs."""
        stopped = [replica for number, replica in enumerate(self.at) if number not in running]
        for replica in stopped:
            _signal(replica.pid, signal.SIGSTOP)
        try:
            await divided([self.at[number].metrics for number in running])
            yield
        finally:
            for replica in stopped:
                _signal(replica.pid, signal.SIGCONT)
            await asyncio.sleep(_SETTLE_SECONDS)
            await divided([replica.metrics for replica in self.at])


def _signal(pid: int, number: signal.Signals) -> None:
    for each in proc.with_children([pid]):
        with suppress(ProcessLookupError):
            os.kill(each, number)


class Across(_Replicated):
    name = "across"
    about = "delivery of a message sent at one replica to a client that waits at another"

    async def prepare(self) -> None:
        await super().prepare()
        reader, port = self.users[1], self.at[1].port
        self.there = {
            whose: Crowd(self.load, (await self.rooms_of(owner, 1))[0], self.users[0], [reader], port)
            for owner, whose in enumerate(("the sender's", "the reader's", "a third one's"))
        }

    async def measure(self) -> None:
        for whose, crowd in self.there.items():
            await crowd.open(hold_seconds=60)
            try:
                async with self.load.section(f"deliver to another replica, {whose} shard") as section:
                    for _ in range(self.sizes.across):
                        await asyncio.sleep(_PAUSE_SECONDS)
                        if not await crowd.deliver(1, section.add):
                            return
            finally:
                crowd.close()


class Costs(_Replicated):
    """CPU of each process for a message, idle work taken off: replica 0 gets it, 1 and 2 read along."""

    name = "costs"
    about = "CPU of a message at its owner, at replicas that read along, at the database and the broker"

    async def prepare(self) -> None:
        await super().prepare()
        self.rooms = [await self.rooms_of(owner, _ROOMS) for owner in (0, 1)]
        readers = await self.load.accounts(_READERS)
        room = (await self.rooms_of(0, 1))[0]
        for reader in readers:
            await self.load.call(self.load.api.join(reader, room))
        self.crowd = Crowd(self.load, room, self.users[0], readers, self.at[1].port)
        await self.crowd.open(hold_seconds=1)
        self.crowd.close()

    async def measure(self) -> None:
        await self.meet(1)
        idle = await self._idle()
        self.load.figure("CPU of an idle replica", "ms/s", idle["replica 2"] * 1000)
        async with Database(self.load.attach.database) as database:
            single = await self._sent(1, 0, idle)
            before = await database.appended()
            many = await self._sent(50, 0, idle)
            batch = await database.batch_since(before)
            latencies = []
            async for seconds in database.bare_inserts(1):
                latencies.append(seconds)
                if len(latencies) == _SINGLE_INSERTS:
                    break
        passed_on = await self._sent(50, 1, idle)
        delivered = await self._delivered(idle)
        measured = Measured(
            owner_alone=single["replica 0"],
            owner_in_batches=many["replica 0"],
            batch=batch,
            passed_on=passed_on["replica 0"],
            read_along=many["replica 1"],
            nobody_there=many["replica 2"],
            delivered=delivered,
            database_alone=single["database"],
            database_in_batches=many["database"],
            broker_alone=single["broker"],
            broker_in_batches=many["broker"],
            single_insert=median(latencies),
        )
        for name, (unit, value) in measured.figures().items():
            self.load.figure(name, unit, value)

    async def _sent(self, at_once: int, owner: int, idle: dict[str, float]) -> dict[str, float]:
        whose = ("its own shards", "another's shards")[owner]
        load, count = self.load, self.sizes.costs
        sender = Sender(load, self.users, self.rooms[owner], load.new_name())
        name = f"send to one of three, {at_once} at once, {whose}"

        async def send() -> None:
            await load.loop(name, at_once, sender.request, sender.check, fewest=count, most=count)

        return await self._cpu_of(send, count, idle)

    async def _delivered(self, idle: dict[str, float]) -> float:
        """Seconds of CPU of one delivery, the following included, to one of many at the same replica."""
        messages = max(10, self.sizes.costs // _READERS)
        await self.crowd.open(hold_seconds=120)

        async def deliver() -> None:
            for _ in range(messages):
                if not await self.crowd.deliver(1, lambda seconds: None):
                    return

        try:
            spent = await self._cpu_of(deliver, messages * _READERS, idle)
        finally:
            self.crowd.close()
        return spent["replica 1"]

    async def _cpu_of(
        self, work: Callable[[], Awaitable[None]], count: int, idle: dict[str, float]
    ) -> dict[str, float]:
        """Seconds of CPU of each process, for each of `count` things, above what it uses when idle."""
        await self.load.quiet()
        before, begun = self._cpu(), time.perf_counter()
        await work()
        await self.load.quiet()
        seconds = time.perf_counter() - begun
        return {
            name: max(0.0, spent - before[name] - idle[name] * seconds) / count
            for name, spent in self._cpu().items()
        }

    async def _idle(self) -> dict[str, float]:
        """Shares of a core."""
        await self.load.quiet()
        before = self._cpu()
        await asyncio.sleep(_IDLE_SECONDS)
        return {name: (spent - before[name]) / _IDLE_SECONDS for name, spent in self._cpu().items()}

    def _cpu(self) -> dict[str, float]:
        pids = {f"replica {number}": replica.pid for number, replica in enumerate(self.at)}
        pids |= self.load.attach.beside
        return {name: proc.cpu_seconds(proc.with_children([pid])) for name, pid in pids.items()}


class Scaling(_Replicated):
    name = "scaling"
    about = "sends to 1 replica kept on 1 core, and to 2 replicas on 2 cores"

    async def prepare(self) -> None:
        await super().prepare()
        self.rooms = [await self.load.room(self.users) for _ in range(_USERS)]

    async def measure(self) -> None:
        cores = sorted(os.sched_getaffinity(self.at[0].pid))
        for count in (1, 2):
            running = range(count)
            async with self.only(*running):
                for number in running:
                    proc.pin([self.at[number].pid], {cores[number % len(cores)]})
                    await self.meet(number)
                await self.send(f"send, {count} replica(s), a core each", self.rooms, *running)
        proc.pin([replica.pid for replica in self.at], cores)


class Contention(_Replicated):
    name = "contention"
    about = "fifty senders in one room: at one replica, then spread over three"

    async def prepare(self) -> None:
        await super().prepare()
        self.room = await self.load.room(self.users)

    async def measure(self) -> None:
        async with self.only(0):
            await self.send("one room, one replica", [self.room], 0)
        for number in range(len(self.at)):
            await self.meet(number)
        await self.send("one room, three replicas", [self.room], 0, 1, 2)
        since = await self.load.since(self.users[0])
        timelines = set()
        for number, replica in enumerate(self.at):
            await self.meet(number, since)
            page = await self.load.call(
                self.load.api.messages(self.users[0], self.room, limit=1000), replica.port
            )
            timelines.add(tuple(event["event_id"] for event in page["chunk"]))
        if len(timelines) > 1:
            self.load.mistake("replicas show one room in different orders")


class CatchUp(_Replicated):
    name = "catch-up"
    about = "how fast a replica that was stopped, and a broker that was, are caught up with"
    once = True

    async def prepare(self) -> None:
        await super().prepare()
        self.rooms = [await self.load.room(self.users) for _ in range(_USERS)]
        await self.meet(2)

    async def measure(self) -> None:
        await self._after(self.at[2].pid, "a replica", self._behind)
        if (broker := self.load.attach.beside.get("broker")) is not None:
            await self._after(broker, "the broker", self._unpublished)

    async def _after(self, pid: int, what: str, lag: Callable[[], Awaitable[float]]) -> None:
        """Stop a process under load; once it runs again, see how long it takes until nothing is behind."""
        away = self.sizes.away_seconds
        _signal(pid, signal.SIGSTOP)
        try:
            await self.send(f"send while {what} is stopped", self.rooms, 0, 1, seconds=away)
        finally:
            _signal(pid, signal.SIGCONT)
        live = self.load.outcome.rows[-1].per_second
        begun, missed, left = time.perf_counter(), 0.0, 1.0
        while left and time.perf_counter() - begun < _CAUGHT_UP_SECONDS:
            left = await lag()
            missed = max(missed, left)
            await asyncio.sleep(_LOOK_SECONDS)
        seconds = time.perf_counter() - begun
        self.load.figure(f"{what} was stopped: caught up after", "s", seconds)
        self.load.figure(f"{what} was stopped: caught up at", "× the live rate", missed / seconds / live)

    async def _behind(self) -> float:
        """Entries that the stopped replica has not followed."""
        ahead, behind = [
            sum(shards(await metrics_at(self.at[number].metrics), "weft_log_tail").values())
            for number in (0, 2)
        ]
        return ahead - behind

    async def _unpublished(self) -> float:
        """Entries that wait for any consumer anywhere."""
        every = [await metrics_at(replica.metrics) for replica in self.at]
        return sum(sum(shards(metrics, "weft_consumer_lag").values()) for metrics in every)
