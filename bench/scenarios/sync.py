"""/sync of an account that has seen everything, with one new event, and of one that has seen nothing."""

import time

from bench.http1 import Response, connect
from bench.matrix import Account, JsonObject, WrongAnswer, marks, parsed, text, timeline_filter
from bench.scenarios.scenario import Scenario

_CLIENTS = 20
_ROOMS = 5
_MOST_EVENTS = 20
_FEWEST_EVENTS = 3

_MEMBERS = 5
_MESSAGES = 5
_REPEATS = 20


class IncrementalSync(Scenario):
    name = "sync"
    about = "incremental /sync, idle and with one new event; 20 users in 5 rooms"

    async def prepare(self) -> None:
        self.sender, *self.clients = await self.load.accounts(_CLIENTS + 1)
        for _ in range(_ROOMS):
            self.room = await self.load.room([self.sender, *self.clients])
        self.since = [""] * _CLIENTS

    async def measure(self) -> None:
        await self._catch_up()
        await self._catch_up()
        for concurrency in (1, _CLIENTS):
            await self.load.loop(
                f"sync, nothing new, {concurrency} at once", concurrency, self._request, self._check_idle
            )
        await self._one_event()

    async def _catch_up(self) -> None:
        async def one(number: int) -> None:
            self.since[number] = await self.load.since(self.clients[number], self.since[number])

        await self.load.each(range(_CLIENTS), one)

    def _request(self, worker: int, number: int) -> bytes:
        return self.load.api.sync(self.clients[worker], self.since[worker])

    def _check_idle(self, worker: int, number: int, response: Response) -> None:
        answer = parsed(response)
        self.since[worker] = text(answer, "next_batch")
        if answer.get("rooms", {}).get("join"):
            raise WrongAnswer("an idle account is told of rooms")

    async def _one_event(self) -> None:
        """Only the syncs are charged: each message is sent, and the server quiet, before they begin."""
        load = self.load
        tag = load.new_name()
        connections = await connect(load.api.host, load.api.port, _CLIENTS)
        begun = time.perf_counter()
        try:
            async with load.section(f"sync, one new event, {_CLIENTS} at once") as section:
                section.cpu_seconds = section.seconds = 0.0
                for number in range(_MOST_EVENTS):
                    if number >= _FEWEST_EVENTS and time.perf_counter() - begun > 2 * self.sizes.seconds:
                        break
                    await load.call(load.api.send(self.sender, self.room, tag, number))
                    await load.quiet()
                    cpu, start = load.cpu_seconds(), time.perf_counter()
                    # The timeout is for a server that answers a send before its syncs can see it.
                    waiting = [
                        each.request(load.api.sync(client, since, timeout_ms=10_000))
                        for each, client, since in zip(connections, self.clients, self.since, strict=True)
                    ]
                    answers = [await each for each in waiting]
                    section.seconds += max(answer.at for answer in answers) - start
                    section.cpu_seconds += load.cpu_seconds() - cpu
                    for client, answer in enumerate(answers):
                        section.add(answer.at - start)
                        self._check_event(client, answer, tag, number)
        finally:
            for each in connections:
                each.close()

    def _check_event(self, client: int, response: Response, tag: str, number: int) -> None:
        try:
            answer = parsed(response)
            self.since[client] = text(answer, "next_batch")
            room = answer.get("rooms", {}).get("join", {}).get(self.room, {})
            found = marks(room.get("timeline", {}).get("events", ()), tag)
            if found != [number]:
                raise WrongAnswer(f"a sync shows messages {found}, not the one that is new")
        except WrongAnswer as wrong:
            self.load.mistake(str(wrong))


class FirstSync(Scenario):
    """One account is in all the rooms, another with its friends in the first few; each has 5 members."""

    name = "first-sync"
    about = "first /sync of a user in 10 and 50 rooms of 5 members, all members or lazily"

    async def prepare(self) -> None:
        few, many = self.sizes.first_sync
        everywhere, *crew = await self.load.accounts(2 * _MEMBERS - 1)
        first, second = crew[: _MEMBERS - 1], crew[_MEMBERS - 1 :]
        self.rooms = [""] * many

        async def make(number: int) -> None:
            members = [everywhere, *(first if number < few else second)]
            room = self.rooms[number] = await self.load.room(members)
            for message in range(_MESSAGES):
                sender = members[message % _MEMBERS]
                await self.load.call(self.load.api.send(sender, room, room, message))

        await self.load.each(range(many), make)
        self.accounts = {few: first[0], many: everywhere}

    async def measure(self) -> None:
        for rooms, account in self.accounts.items():
            for lazy in (False, True):
                await self._sync(account, rooms, lazy)

    async def _sync(self, account: Account, rooms: int, lazy: bool) -> None:
        filter_json = timeline_filter(10, lazy=lazy)

        def request(worker: int, number: int) -> bytes:
            return self.load.first_sync(account, filter_json)

        def check(worker: int, number: int, response: Response) -> None:
            self._check(parsed(response), self.rooms[:rooms], lazy)

        name = f"first sync, {rooms} rooms, {'lazy' if lazy else 'all'} members"
        await self.load.loop(name, 1, request, check, most=_REPEATS)

    @staticmethod
    def _check(answer: JsonObject, rooms: list[str], lazy: bool) -> None:
        joined = answer["rooms"]["join"]
        if set(joined) != set(rooms):
            raise WrongAnswer(f"a first sync shows {len(joined)} rooms of {len(rooms)}")
        for room in rooms:
            timeline = joined[room]["timeline"]["events"]
            events = joined[room]["state"]["events"] + timeline
            members = {event["state_key"] for event in events if event["type"] == "m.room.member"}
            senders = {event["sender"] for event in timeline}
            if not senders <= members or not (lazy or len(members) == _MEMBERS):
                raise WrongAnswer(f"a first sync shows {len(members)} members of {room}")
            if marks(timeline, room) != list(range(_MESSAGES)):
                raise WrongAnswer(f"a first sync shows other messages in {room} than were sent")
