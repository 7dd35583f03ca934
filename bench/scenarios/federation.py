"""What happens on one server until it is seen on another of its kind."""

import asyncio
import time
from urllib.parse import quote, urlencode

from bench.crowd import Crowd
from bench.http1 import Response
from bench.load import account_of
from bench.matrix import V3, Account, marks, parsed, text, timeline_filter
from bench.scenarios.scenario import Scenario

_SENDERS = 10
_ROOMS = 20
_ARRIVED_SECONDS = 300.0
_LOOK_SECONDS = 0.05


class _Paired(Scenario):
    """What scenarios on two servers share."""

    pair = True

    async def somebody_else(self) -> Account:
        """A new account on the other server."""
        localpart = self.load.new_name()
        return account_of(await self.load.call(self.load.api.register(localpart), self.other), localpart)

    @property
    def other(self) -> int:
        """The other server's port."""
        return self.load.attach.other

    async def join_from_elsewhere(self, account: Account, room: str) -> None:
        name = self.load.attach.server_name
        query = urlencode({"via": name, "server_name": name})
        path = f"{V3}/join/{quote(room, safe='')}?{query}"
        await self.load.call(self.load.api.request("POST", path, account.token, {}), self.other)


class Federation(_Paired):
    name = "federation"
    about = "events until they are seen on another server: many at once, and one at a time"

    async def prepare(self) -> None:
        load = self.load
        self.users = await load.accounts(_SENDERS)
        self.reader = await self.somebody_else()
        self.rooms = [await load.room(self.users) for _ in range(_ROOMS)]
        for room in self.rooms:
            await self.join_from_elsewhere(self.reader, room)
        self.crowd = Crowd(load, self.rooms[0], self.users[0], [self.reader], self.other)

    async def measure(self) -> None:
        await self._many(self.rooms[:1])
        await self._many(self.rooms)
        await self.crowd.open(hold_seconds=60)
        try:
            async with self.load.section("one event, seen on another server") as section:
                for _ in range(self.sizes.across):
                    if not await self.crowd.deliver(1, section.add):
                        return
        finally:
            self.crowd.close()

    async def _many(self, rooms: list[str]) -> None:
        """Ten at once; it ends when the other server's user has seen all of it, in order."""
        load, count, tag = self.load, self.sizes.federated, self.load.new_name()
        since = text(await load.call(load.api.sync(self.reader, ""), self.other), "next_batch")
        numbers = iter(range(count))
        connections = await load.connect(_SENDERS)
        begun_at: dict[int, float] = {}
        name = f"{len(rooms)} room{'s' if len(rooms) > 1 else ''}, until seen on another server"
        async with load.section(name) as section:
            begun = time.perf_counter()

            async def send(who: int) -> None:
                for number in numbers:
                    begun_at[number] = time.perf_counter()
                    room = rooms[number % len(rooms)]
                    response: Response = await connections[who].request(
                        load.api.send(self.users[who], room, tag, number)
                    )
                    parsed(response)

            async def see() -> None:
                nonlocal since
                seen: set[int] = set()
                while len(seen) < count:
                    answer = await load.call(
                        load.api.sync(self.reader, since, filter_json=timeline_filter(count)), self.other
                    )
                    since = text(answer, "next_batch")
                    at = time.perf_counter()
                    for joined in answer.get("rooms", {}).get("join", {}).values():
                        for number in marks(joined["timeline"]["events"], tag):
                            if number in seen:
                                load.mistake(f"{name}: event {number} came twice")
                            seen.add(number)
                            section.add(at - begun_at[number])
                    await asyncio.sleep(_LOOK_SECONDS)

            async with asyncio.timeout(_ARRIVED_SECONDS):
                await asyncio.gather(see(), *(send(who) for who in range(_SENDERS)))
            section.seconds = time.perf_counter() - begun
        for connection in connections:
            connection.close()


class FederatedJoin(_Paired):
    """Measured once: the second to come from a server finds the room there."""

    name = "federated-join"
    about = "joining a room with many members and much state on another server"
    once = True

    async def prepare(self) -> None:
        load = self.load
        self.users = await load.accounts(self.sizes.big_room)
        self.room = await load.room(self.users)
        creator = self.users[0]
        await load.each(
            range(self.sizes.big_state),
            lambda n: load.call(load.api.room("PUT", creator, self.room, f"state/bench.state/{n}", {"n": n})),
        )
        self.newcomer = await self.somebody_else()

    async def measure(self) -> None:
        load, sizes = self.load, self.sizes
        name = f"join {sizes.big_room} members and {sizes.big_state} other events of state elsewhere"
        async with load.section(name) as section:
            begun = time.perf_counter()
            await self.join_from_elsewhere(self.newcomer, self.room)
            await load.call(load.api.send(self.newcomer, self.room, load.new_name(), 0), self.other)
            section.add(time.perf_counter() - begun)
        begun = time.perf_counter()
        while True:
            members = await load.call(
                load.api.room("GET", self.newcomer, self.room, "joined_members"), self.other
            )
            if len(members["joined"]) > self.sizes.big_room:
                break
            await asyncio.sleep(_LOOK_SECONDS)
        load.figure(
            f"all members known after such a join ({self.sizes.big_room})", "s", time.perf_counter() - begun
        )
