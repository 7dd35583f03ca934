"""A room full of long-polling clients: each always has a /sync waiting, as an open app does.

Every message must reach every client once and in order; the first delivery of a message to a client
is timed from the start of the send to the last byte of that client's answer.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from urllib.parse import quote

from bench.http1 import Connection, Response, connect
from bench.load import Load
from bench.matrix import Account, WrongAnswer, marks, parsed, text, timeline_filter

_FILTER = timeline_filter(100)
_DELIVERY_LIMIT = 60.0


class _Client:
    """One device of a member. It polls from its own answers' callbacks: no task, no future."""

    __slots__ = ("_crowd", "_head", "_tail", "account", "connection", "expected", "since")

    def __init__(self, crowd: "Crowd", account: Account) -> None:
        self.account = account
        self.connection: Connection | None = None
        self.since = ""
        self.expected = 0
        self._crowd = crowd
        self._head = self._tail = b""

    def open(self, connection: Connection, timeout_ms: int) -> None:
        self.connection = connection
        self._head, self._tail = self._crowd.load.api.sync_around(
            self.account, timeout_ms=timeout_ms, filter_json=_FILTER
        )
        self.poll()

    def poll(self) -> None:
        assert self.connection is not None
        request = self._head + b"&since=" + quote(self.since, safe="").encode() + self._tail
        self.connection.send(request, self._answered)

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def _answered(self, response: Response) -> None:
        try:
            answer = parsed(response)
            self.since = text(answer, "next_batch")
        except WrongAnswer as wrong:
            self._crowd.broken(f"a long-poll ended with {wrong}")
            return
        joined = answer.get("rooms", {}).get("join", {}).get(self._crowd.room, {})
        numbers = marks(joined.get("timeline", {}).get("events", ()), self._crowd.tag)
        self.poll()
        for number in numbers:
            if number != self.expected:
                self._crowd.broken(f"message {number} arrived at the place of {self.expected}")
            self.expected = number + 1
            self._crowd.arrived(number, response.at)


class Crowd:
    """The clients of one room, and one more account that sends."""

    def __init__(
        self, load: Load, room: str, sender: Account, members: Sequence[Account], port: int | None = None
    ) -> None:
        """The clients poll at `port`, or where everything else is sent."""
        self.load = load
        self.port = port or load.api.port
        self.room = room
        self.sender = sender
        self.tag = f"{load.tag}/{room}"
        self._clients = [_Client(self, member) for member in members]
        self._sent = 0
        self._known = False
        self._begun: dict[int, float] = {}
        self._missing: dict[int, int] = {}
        self._done = asyncio.Event()
        self._record: Callable[[float], None] = lambda seconds: None
        self._wrong: list[str] = []

    @property
    def size(self) -> int:
        return len(self._clients)

    @property
    def members(self) -> list[Account]:
        return [client.account for client in self._clients]

    async def catch_up(self) -> None:
        """Reads each client's position."""

        async def one(client: _Client) -> None:
            client.since = await self.load.since(client.account, client.since, self.port)
            client.expected = self._sent

        await self.load.each(self._clients, one)
        self._known = True

    async def open(self, hold_seconds: float) -> None:
        """Starts all the polls from where the room stands now; returns when the server has them."""
        if not self._known:
            await self.catch_up()  # a first /sync may itself cause something to be told
        await self.catch_up()
        connections = await connect(self.load.api.host, self.port, self.size)
        for client, connection in zip(self._clients, connections, strict=True):
            client.open(connection, int(hold_seconds * 1000))
        await asyncio.sleep(0.2 + self.size / 2000)
        await self.load.quiet()

    def close(self) -> None:
        """All clients hang up."""
        for client in self._clients:
            client.close()

    async def send(self) -> None:
        """Sends a message that nobody waits for."""
        await self.load.call(self.load.api.send(self.sender, self.room, self.tag, self._sent))
        self._sent += 1

    async def deliver(self, count: int, record: Callable[[float], None]) -> bool:
        """Sends messages one right after the other; returns when all clients have all of them.

        `record` gets the seconds of each delivery. False when something went wrong.
        """
        self._record = record
        self._done.clear()
        numbers = range(self._sent, self._sent + count)
        self._sent += count
        self._missing |= dict.fromkeys(numbers, self.size)
        for number in numbers:
            request = self.load.api.send(self.sender, self.room, self.tag, number)
            self._begun[number] = time.perf_counter()
            await self.load.call(request)
        try:
            async with asyncio.timeout(_DELIVERY_LIMIT):
                await self._done.wait()
        except TimeoutError:
            self._wrong.append(f"{sum(self._missing.values())} deliveries did not come")
        self._missing.clear()
        wrong, self._wrong = self._wrong, []
        for what in wrong:
            self.load.mistake(what)
        return not wrong

    def arrived(self, number: int, at: float) -> None:
        if number not in self._missing:
            self.broken(f"message {number} arrived once more")
            return
        self._record(at - self._begun[number])
        self._missing[number] -= 1
        if not self._missing[number]:
            del self._missing[number]
            if not self._missing:
                self._done.set()

    def broken(self, what: str) -> None:
        """Notes a mistake seen in a callback; `deliver` reports it and waits no longer."""
        self._wrong.append(what)
        self._done.set()


class Crowds:
    """The rooms that several scenarios need, each made once: full ones by their size, and a long one."""

    LONG = "long"  # the tag of the messages in the long room, numbered from 0

    def __init__(self) -> None:
        self._made: dict[int, Crowd] = {}
        self._long: tuple[Account, str] | None = None

    async def get(self, load: Load, size: int) -> Crowd:
        """A room with so many clients beside the sender."""
        if size not in self._made:
            accounts = await load.accounts(size + 1)
            room = await load.room(accounts)
            self._made[size] = Crowd(load, room, accounts[0], accounts[1:])
        return self._made[size]

    async def long_room(self, load: Load) -> tuple[Account, str]:
        """A room of two with a long timeline, and one of its members."""
        if self._long is None:
            members = await load.accounts(2)
            room = await load.room(members)
            for number in range(load.sizes.long_room):
                await load.call(load.api.send(members[0], room, self.LONG, number))
            self._long = members[0], room
        return self._long
