"""The network between simulated servers: it delays, doubles, loses and cuts, as a seed has it.

What a server sends is sent once. What is lost so is found by those who ask for it, who may get no answer.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import combinations
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import orjson

from federation.client import FederationClient
from federation.errors import RemoteError, Unreachable
from homeserver.errors import MatrixError
from homeserver.graph.told import ToldGraph
from homeserver.protocol.json_types import JsonObject

Take = Callable[[str, str, Sequence[JsonObject]], Awaitable[Mapping[str, str | None]]]
"""Takes events: who sends them, their room, the events. Event id → why it is refused."""


class Network:
    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed)
        self._told: dict[str, ToldGraph] = {}
        self._take: dict[str, Take] = {}
        self._cut: set[frozenset[str]] = set()
        self._under_way: set[asyncio.Task[None]] = set()
        self._healthy = True
        self.refused: dict[str, str] = {}
        """Events that a server said no to, and why."""
        self.lost = self.doubled = self.unanswered = 0

    def join(self, name: str, told: ToldGraph, take: Take) -> None:
        self._told[name] = told
        self._take[name] = take

    async def keep_cutting(self) -> None:
        """Partitions come and go, until cancelled."""
        while True:
            await asyncio.sleep(self._random.uniform(0.0, 20.0))
            side = {name for name in self._told if self._random.random() < 0.5}
            links = combinations(self._told, 2)
            self._cut = {frozenset(link) for link in links if len(side.intersection(link)) == 1}
            await asyncio.sleep(self._random.uniform(0.0, 15.0))
            self._cut = set()

    def break_down(self) -> None:
        """From now on it delays, doubles, loses and cuts."""
        self._healthy = False

    def heal(self) -> None:
        """From now on nothing is lost, though it takes its time."""
        self._healthy, self._cut = True, set()

    # Events

    def send(self, origin: str, server: str, room_id: str, pdu: JsonObject) -> None:
        """Let an event be on its way, or be lost."""
        copies = 1 if self._healthy else self._random.choices((0, 1, 2), (15, 70, 15))[0]
        self.lost += copies == 0
        self.doubled += copies == 2
        for _ in range(copies):
            task = asyncio.create_task(self._deliver(origin, server, room_id, pdu), name="deliver")
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    async def arrived(self) -> None:
        """Wait until nothing is under way."""
        while self._under_way:
            await asyncio.gather(*self._under_way)

    async def _deliver(self, origin: str, server: str, room_id: str, pdu: JsonObject) -> None:
        await self._travel()
        if self._is_cut(origin, server):
            self.lost += 1
            return
        results = await self._take[server](origin, room_id, [orjson.loads(orjson.dumps(pdu))])
        self.refused.update({event_id: why for event_id, why in results.items() if why is not None})

    async def _travel(self) -> None:
        longest = 0.2 if self._random.random() < 0.6 else 12.0
        await asyncio.sleep(self._random.uniform(0.0, longest))

    def _is_cut(self, one: str, other: str) -> bool:
        return frozenset((one, other)) in self._cut

    # Questions

    async def ask(self, origin: str, server: str, target: str, content: JsonObject | None) -> JsonObject:
        """What a server answers to another one. Raises FederationError."""
        await self._travel()
        if self._is_cut(origin, server) or (not self._healthy and self._random.random() < 0.1):
            self.unanswered += 1
            raise Unreachable(server, "the network is down")
        try:
            answer = await _answer(self._told[server], origin, target, content or {})
        except MatrixError as error:
            said = {"errcode": error.errcode, "error": error.error}
            raise RemoteError(server, error.status, said) from None
        await self._travel()
        if self._is_cut(origin, server):
            self.unanswered += 1
            raise Unreachable(server, "the network went down")
        return answer


class SimulatedClient(FederationClient):
    """Asks by way of the simulated network."""

    def __init__(self, server_name: str, network: Network) -> None:
        self._server_name = server_name
        self._network = network

    async def _ask(
        self,
        destination: str,
        method: str,
        target: str,
        content: JsonObject | None,
        seconds: float,
        max_bytes: int,
    ) -> JsonObject:
        return await self._network.ask(self._server_name, destination, target, content)


async def _answer(told: ToldGraph, origin: str, target: str, content: JsonObject) -> JsonObject:
    """What the routes of `federation.events` answer."""
    parts = urlsplit(target)
    query = parse_qs(parts.query)
    what, *names = [unquote(part) for part in parts.path.removeprefix("/_matrix/federation/v1/").split("/")]
    if what == "event":
        return {"pdus": _events([await told.event(names[0], origin)])}
    if what == "state_ids":
        state_ids, chain_ids = await told.state_ids(names[0], query["event_id"][0], origin)
        return {"pdu_ids": state_ids, "auth_chain_ids": chain_ids}
    if what == "state":
        state, chain = await told.state(names[0], query["event_id"][0], origin)
        return {"pdus": _events(state), "auth_chain": _events(chain)}
    if what == "event_auth":
        return {"auth_chain": _events(await told.auth_chain(names[0], names[1], origin))}
    if what == "backfill":
        limit = int(query["limit"][0])
        return {"pdus": _events(await told.backfill(names[0], query["v"], origin, limit=limit))}
    assert what == "get_missing_events", target
    found = await told.missing(
        names[0],
        origin,
        latest=content["latest_events"],
        earliest=content["earliest_events"],
        min_depth=content["min_depth"],
        limit=content["limit"],
    )
    return {"events": _events(found)}


def _events(bodies: Sequence[bytes]) -> list[Any]:
    return [orjson.loads(body) for body in bodies]
