"""What an operation costs as things grow: joins into a room that fills, messages in long and in big rooms."""

from bench.http1 import Response
from bench.matrix import Account, WrongAnswer, parsed
from bench.scenarios.scenario import Scenario
from bench.scenarios.send import Sender


class Growth(Scenario):
    name = "growth"
    about = "joins and messages in a new room against a big and a long one"

    async def prepare(self) -> None:
        self.crowd = await self.crowds.get(self.load, self.sizes.big_room)
        self.writer, self.long_room = await self.crowds.long_room(self.load)

    async def measure(self) -> None:
        count = self.sizes.joins
        creator, *joiners = await self.load.accounts(2 * count + 1)
        small = await self.load.room([creator])
        await self._joins(f"join, room of 1 to {count}", joiners[:count], small)
        await self._joins(f"join, room of {self.crowd.size}", joiners[count:], self.crowd.room)
        pair = await self.load.accounts(2)
        await self._sends("send, new room of 2", pair[0], await self.load.room(pair))
        await self._sends(f"send, room of 2, {self.sizes.long_room} events", self.writer, self.long_room)
        await self._sends(f"send, room of {self.crowd.size}", self.crowd.sender, self.crowd.room)

    async def _joins(self, name: str, joiners: list[Account], room: str) -> None:
        def request(worker: int, number: int) -> bytes:
            return self.load.api.join(joiners[number], room)

        def check(worker: int, number: int, response: Response) -> None:
            if parsed(response).get("room_id") != room:
                raise WrongAnswer("a join answers with another room")

        await self.load.loop(name, 1, request, check, fewest=len(joiners), most=len(joiners))

    async def _sends(self, name: str, user: Account, room: str) -> None:
        sender = Sender(self.load, [user], [room], self.load.new_name())
        await self.load.loop(name, 1, sender.request, sender.check)
        await sender.ledger.verify(self.load, user)
