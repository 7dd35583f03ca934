"""The network between simulated servers: it delays, doubles, loses and cuts, as a seed has it.

Requests get lost, and so do answers to what was done; a request may arrive twice. Who sends
sends again, and of what comes twice nothing more must come.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import combinations
from typing import Protocol

import orjson

from federation.errors import FederationError, Unreachable
from federation.transport import Transport
from homeserver.errors import MatrixError
from homeserver.protocol.json_types import JsonObject
from tests.simulation.process import Killed


class Served(Protocol):
    """A server, as others reach it."""

    async def answer(self, origin: str, target: str, content: JsonObject) -> JsonObject:
        """Raises MatrixError, and Killed if the server ends meanwhile."""
        ...


class Network:
    def __init__(self, seed: str, names: Sequence[str]) -> None:
        self._random = random.Random(seed)
        self._names = names
        self._served: dict[str, Served] = {}
        self._cut: set[frozenset[str]] = set()
        self._doubles: set[asyncio.Task[None]] = set()
        self._healthy = True
        self.lost = self.doubled = 0

    def join(self, name: str, served: Served) -> None:
        self._served[name] = served

    def leave(self, name: str) -> None:
        """Nobody is reached there any more."""
        del self._served[name]

    async def keep_cutting(self) -> None:
        """Partitions come and go, until cancelled."""
        while True:
            await asyncio.sleep(self._random.uniform(0.0, 20.0))
            side = {name for name in self._names if self._random.random() < 0.5}
            links = combinations(self._names, 2)
            self._cut = {frozenset(link) for link in links if len(side.intersection(link)) == 1}
            await asyncio.sleep(self._random.uniform(0.0, 15.0))
            self._cut = set()

    def break_down(self) -> None:
        """From now on it delays, doubles, loses and cuts."""
        self._healthy = False

    async def heal(self) -> None:
        """From now on nothing is lost, though it takes its time."""
        self._healthy, self._cut = True, set()
        while self._doubles:
            await asyncio.wait(self._doubles)

    async def carry(self, origin: str, server: str, target: str, body: bytes) -> tuple[int, bytes]:
        """Status and body of the answer to a request. Raises Unreachable."""
        if not self._healthy and self._random.random() < 0.1:
            self.doubled += 1
            task = asyncio.create_task(self._again(origin, server, target, body), name="double")
            self._doubles.add(task)
            task.add_done_callback(self._doubles.discard)
        return await self._carried(origin, server, target, body)

    async def _again(self, origin: str, server: str, target: str, body: bytes) -> None:
        with suppress(FederationError):
            await self._carried(origin, server, target, body)

    async def _carried(self, origin: str, server: str, target: str, body: bytes) -> tuple[int, bytes]:
        await self._travel(origin, server)
        if server not in self._served:
            raise Unreachable(server, "it is down")
        try:
            answer = 200, await self._served[server].answer(origin, target, orjson.loads(body))
        except MatrixError as error:
            answer = error.status, {"errcode": error.errcode, "error": error.error}
        except Killed:
            raise Unreachable(server, "it went down") from None
        encoded = orjson.dumps(answer[1])
        await self._travel(origin, server)
        return answer[0], encoded

    async def _travel(self, origin: str, server: str) -> None:
        longest = 0.2 if self._random.random() < 0.6 else 12.0
        await asyncio.sleep(self._random.uniform(0.0, longest))
        is_lost = not self._healthy and self._random.random() < 0.08
        if is_lost or frozenset((origin, server)) in self._cut:
            self.lost += 1
            raise Unreachable(server, "the network is down")


class Arrived:
    """An answer; see `homeserver.egress.client.Incoming`."""

    def __init__(self, status: int, body: bytes) -> None:
        self.status = status
        self.headers: Mapping[str, str] = {}
        self._body = body

    async def pieces(self, max_bytes: int) -> AsyncIterator[bytes]:
        assert len(self._body) <= max_bytes
        yield self._body


class SimulatedTransport(Transport):
    """Carries requests by way of the simulated network."""

    def __init__(self, origin: str, network: Network) -> None:
        self._origin = origin
        self._network = network

    @asynccontextmanager
    async def open(
        self,
        destination: str,
        method: str,
        target: str,
        *,
        seconds: float,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> AsyncIterator[Arrived]:
        try:
            async with asyncio.timeout(seconds):
                answer = await self._network.carry(self._origin, destination, target, body or b"{}")
        except TimeoutError:
            raise Unreachable(destination, f"no answer within {seconds} s") from None
        yield Arrived(*answer)
