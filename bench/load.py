"""What a scenario works with: accounts, rooms, timed sections, and a place to report mistakes.

A timed section charges the server with all the CPU that it uses from the first request until it is
quiet again after the last answer, so work that the server puts off is not lost from the figure.
"""

import asyncio
import itertools
import secrets
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

from bench import proc
from bench.http1 import Connection, Response, connect
from bench.matrix import Account, Api, JsonObject, WrongAnswer, parsed, text, timeline_filter
from bench.results import Attach, Figure, Outcome, Restarted, Row, quantile

_SETUP_AT_ONCE = 8
_FEWEST_OPS = 4
_MISTAKES_BORNE = 10
_KINDS_KEPT = 20

T = TypeVar("T")


class Section:
    """A timed section under way."""

    def __init__(self) -> None:
        self.latencies: list[float] = []
        self.cpu_seconds: float | None = None  # where the scenario takes the CPU itself
        self.seconds: float | None = None  # likewise the time

    def add(self, seconds: float) -> None:
        """Notes one operation."""
        self.latencies.append(seconds)


class Load:
    """One server under load. `outcome` gathers what the scenario finds."""

    def __init__(self, attach: Attach, restart: Callable[[], Awaitable[Restarted]] | None) -> None:
        self.attach = attach
        self.sizes = attach.sizes
        self.api = Api(attach.host, attach.port, attach.sizes.presence)
        self.outcome = Outcome()
        self.tag = secrets.token_hex(3)
        self._roots = list(attach.pids)
        self._restart = restart
        self._numbers = itertools.count()
        self._timeouts = itertools.count(1)
        self._idle: dict[int, list[Connection]] = {}

    # -- requests outside of the timed sections

    async def call(self, request: bytes, port: int | None = None) -> JsonObject:
        """One request, at the server's first port or another one; the JSON object of its 200 answer.

        Raises WrongAnswer.
        """
        port = port or self.api.port
        idle = self._idle.setdefault(port, [])
        while idle and not idle[-1].is_open:
            idle.pop()
        connection = idle.pop() if idle else (await self.connect(1, [port]))[0]
        response = await connection.request(request)
        idle.append(connection)
        return parsed(response)

    async def each(self, items: Sequence[T], work: Callable[[T], Awaitable[object]]) -> None:
        """Does work for each item, a few at a time. The first error ends it."""
        waiting = iter(items)

        async def worker() -> None:
            for item in waiting:
                await work(item)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(_SETUP_AT_ONCE, len(items))):
                    group.create_task(worker())
        except BaseExceptionGroup as several:
            raise several.exceptions[0] from None

    async def bounded(
        self, items: Sequence[T], work: Callable[[T], Awaitable[object]], seconds: float
    ) -> bool:
        """Like `each`; whether it was done in so many seconds. It is not gone on with afterwards."""
        try:
            async with asyncio.timeout(seconds):
                await self.each(items, work)
        except TimeoutError:
            self.hang_up()
            return False
        return True

    def new_name(self) -> str:
        """A localpart that no account has."""
        return f"bench-{self.tag}-{next(self._numbers)}"

    async def accounts(self, count: int) -> list[Account]:
        """Registers fresh accounts."""
        made: list[Account] = []

        async def register(localpart: str) -> None:
            made.append(account_of(await self.call(self.api.register(localpart)), localpart))

        await self.each([self.new_name() for _ in range(count)], register)
        return made

    async def room(self, members: Sequence[Account]) -> str:
        """A public room made by the first member, joined by the others."""
        room = text(await self.call(self.api.create_room(members[0])), "room_id", "!")
        await self.each(members[1:], lambda member: self.call(self.api.join(member, room)))
        return room

    def first_sync(self, account: Account, filter_json: str) -> bytes:
        """The request, another one each time: a server may hold the answer to an equal one."""
        return self.api.sync(account, "", timeout_ms=next(self._timeouts), filter_json=filter_json)

    async def since(self, account: Account, since: str = "", port: int | None = None) -> str:
        """Catches up by one short /sync; returns the token."""
        request = self.api.sync(account, since, filter_json=timeline_filter(1))
        return text(await self.call(request, port), "next_batch")

    # -- the server's processes

    async def quiet(self) -> None:
        """Waits until the server has nothing left to do."""
        await proc.quiet(proc.with_children(self._roots))

    def cpu_seconds(self) -> float:
        return proc.cpu_seconds(proc.with_children(self._roots))

    def rss_bytes(self) -> int:
        return proc.rss_bytes(proc.with_children(self._roots))

    @property
    def can_restart(self) -> bool:
        return self._restart is not None

    async def restart(self) -> Restarted:
        """Stops the server and starts it again on the same data."""
        assert self._restart is not None
        self.hang_up()
        done = await self._restart()
        self._roots = done.pids
        return done

    # -- timing

    @asynccontextmanager
    async def section(self, name: str) -> AsyncIterator[Section]:
        """Times what is done inside and makes a row of it."""
        await self.quiet()
        pids = proc.with_children(self._roots)
        section = Section()
        cpu, own, begun = proc.cpu_seconds(pids), time.process_time(), time.perf_counter()
        yield section
        seconds = time.perf_counter() - begun
        own = time.process_time() - own
        await proc.quiet(pids)
        used = proc.cpu_seconds(pids) - cpu if section.cpu_seconds is None else section.cpu_seconds
        ops = len(section.latencies)
        if not ops:
            self.mistake(f"{name}: not one operation succeeded")
            return
        timed = section.seconds or seconds
        self.outcome.rows.append(
            Row(
                name=name,
                ops=ops,
                per_second=ops / timed,
                p50_ms=quantile(section.latencies, 0.5) * 1000,
                p99_ms=quantile(section.latencies, 0.99) * 1000,
                cpu_ms=used / ops * 1000,
                rss_mib=proc.rss_bytes(pids) / 2**20,
                driver_share=own / seconds,
            )
        )

    async def loop(
        self,
        name: str,
        concurrency: int,
        request: Callable[[int, int], bytes],
        check: Callable[[int, int, Response], None],
        *,
        fewest: int = _FEWEST_OPS,
        most: int | None = None,
        ports: Sequence[int] = (),
        seconds: float | None = None,
    ) -> None:
        """A timed section: workers that send one request after the other until time or operations end.

        `request` and `check` get the worker's number and the operation's; `check` raises WrongAnswer.
        The workers are spread over the ports, or all at the server's first one.
        """
        if most is None:
            most = self.sizes.max_ops if seconds is None else sys.maxsize
        numbers = iter(range(most))
        connections = await self.connect(min(concurrency, most), ports)
        try:
            async with self.section(name) as section:
                stop = time.perf_counter() + (seconds or self.sizes.seconds)
                wrong_answers = 0

                async def worker(who: int, connection: Connection) -> None:
                    nonlocal wrong_answers
                    for number in numbers:
                        data = request(who, number)
                        begun = time.perf_counter()
                        response = await connection.request(data)
                        try:
                            check(who, number, response)
                        except WrongAnswer as wrong:
                            self.mistake(f"{name}: {wrong}")
                            wrong_answers += 1
                            if wrong_answers >= _MISTAKES_BORNE:
                                return
                        else:
                            section.add(response.at - begun)
                        if response.at > stop and number + 1 >= fewest:
                            return

                await asyncio.gather(*(worker(who, each) for who, each in enumerate(connections)))
        finally:
            for connection in connections:
                connection.close()

    async def connect(self, count: int, ports: Sequence[int] = ()) -> list[Connection]:
        """Connections that have answered a request already."""
        ports = ports or (self.api.port,)
        connections: list[Connection] = []
        for number, port in enumerate(ports):
            connections += await connect(self.api.host, port, len(range(number, count, len(ports))))
        warm = self.api.request("GET", "/_matrix/client/versions")
        for response in await asyncio.gather(*(each.request(warm) for each in connections)):
            parsed(response)
        return connections

    def hang_up(self) -> None:
        """Closes the connections that `call` keeps."""
        for connections in self._idle.values():
            for connection in connections:
                connection.close()
        self._idle.clear()

    # -- what was found

    def figure(self, name: str, unit: str, value: float) -> None:
        self.outcome.figures.append(Figure(name, unit, value))

    def mistake(self, what: str) -> None:
        """Counts a wrong answer."""
        mistakes = self.outcome.mistakes
        if what not in mistakes and len(mistakes) >= _KINDS_KEPT:
            what = "others"
        mistakes[what] = mistakes.get(what, 0) + 1


def account_of(answer: JsonObject, localpart: str) -> Account:
    """The account that /register or /login tells of. Raises WrongAnswer."""
    return Account(
        user_id=text(answer, "user_id", f"@{localpart}:"),
        token=text(answer, "access_token"),
        device_id=text(answer, "device_id"),
        localpart=localpart,
    )
