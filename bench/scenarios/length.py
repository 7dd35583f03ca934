"""What a message and a sync cost in a room that gets longer, and to who is in more and more rooms."""

from collections.abc import Callable

from bench.http1 import Response
from bench.matrix import Account, WrongAnswer, marks, parsed, text, timeline_filter
from bench.scenarios.scenario import Scenario
from bench.scenarios.send import Sender

_FEWEST = 10


class Length(Scenario):
    """A server that takes too long to be filled is measured at smaller sizes only."""

    name = "length"
    about = "messages and syncs as a room grows to very many events, and as a user's rooms do"
    once = True
    only_full = True

    async def prepare(self) -> None:
        self.users = await self.load.accounts(2)
        self.room = await self.load.room(self.users)
        self.rooms = [self.room]
        self.since = ""

    async def measure(self) -> None:
        load, sizes = self.load, self.sizes
        events, creator = 0, self.users[0]
        for size in sizes.lengths:
            tag = load.new_name()
            filled = await load.bounded(
                range(size - events),
                lambda n, tag=tag: load.call(load.api.send(creator, self.room, tag, n)),
                sizes.fill_seconds,
            )
            if not filled:
                break
            events = size
            await self._costs(f"room of {size} events")
        for count in sizes.many_rooms:
            if not await load.bounded(range(count - len(self.rooms)), self._add_room, sizes.fill_seconds):
                break
            await self._costs(f"user in {count} rooms")

    async def _add_room(self, number: int) -> None:
        self.rooms.append(await self.load.room(self.users))

    async def _costs(self, where: str) -> None:
        load, (creator, reader) = self.load, self.users
        sender = Sender(load, [creator], [self.room], load.new_name())
        await load.loop(f"send, {where}", 1, sender.request, sender.check)
        since = self.since = await load.since(reader, self.since)
        tag = load.new_name()
        await load.call(load.api.send(creator, self.room, tag, 0))
        await load.loop(f"sync, one new event, {where}", 1, self._sync(reader, since), self._has(tag))
        if len(self.rooms) == 1:
            await load.loop(f"first sync, {where}", 1, self._sync(reader, ""), self._has(tag))

    def _sync(self, reader: Account, since: str) -> Callable[[int, int], bytes]:
        # Of requests that are the same to the letter Synapse works on one.
        return lambda worker, number: self.load.api.sync(
            reader, since, filter_json=timeline_filter(_FEWEST + number)
        )

    def _has(self, tag: str) -> Callable[[int, int, Response], None]:
        """Checks that an answer has the message with this tag."""

        def check(worker: int, number: int, response: Response) -> None:
            answer = parsed(response)
            text(answer, "next_batch")
            room = answer.get("rooms", {}).get("join", {}).get(self.room)
            if room is None or marks(room["timeline"]["events"], tag) != [0]:
                raise WrongAnswer("/sync lacks the new message")

        return check
