"""Sending messages at growing concurrency; afterwards every event must stand in its room once, in order."""

from collections import defaultdict

from bench.http1 import Response
from bench.load import Load
from bench.matrix import MARK, Account, parsed, text
from bench.scenarios.scenario import Scenario

_USERS = 10
_MOST_PAGES = 500


class Ledger:
    """The messages that were acknowledged: event id to (room, mark)."""

    def __init__(self) -> None:
        self._sent: dict[str, dict[str, list[object]]] = defaultdict(dict)

    def add(self, room: str, event_id: str, tag: str, number: int) -> None:
        self._sent[room][event_id] = [tag, number]

    async def verify(self, load: Load, reader: Account) -> None:
        """Reads each room backwards to its first message of ours; counts lost, double and disordered ones."""

        async def one(room: str) -> None:
            await self._verify_room(load, reader, room)

        await load.each(list(self._sent), one)

    async def _verify_room(self, load: Load, reader: Account, room: str) -> None:
        missing = dict(self._sent[room])
        seen: set[str] = set()
        lowest: dict[str, int] = {}
        start = ""
        for _ in range(_MOST_PAGES):
            page = await load.call(load.api.messages(reader, room, start, limit=500))
            for event in page["chunk"]:
                event_id = event["event_id"]
                if event_id in seen:
                    load.mistake(f"{event_id} is twice in the timeline of {room}")
                seen.add(event_id)
                mark = missing.pop(event_id, None)
                if mark is None:
                    continue
                if event["content"].get(MARK) != mark:
                    load.mistake(f"{event_id} has other content than was sent")
                    continue
                tag, number = event["content"][MARK]
                if number >= lowest.get(tag, number + 1):
                    load.mistake(f"message {number} of {tag} stands after message {lowest[tag]}")
                lowest[tag] = number
            start = page.get("end", "")
            if not missing or not start or not page["chunk"]:
                break
        if missing:
            load.mistake(f"{len(missing)} acknowledged messages are not in the timeline of {room}")


class Sender:
    """Formats and checks sends for `Load.loop`: a worker is one user, and goes round the rooms."""

    def __init__(self, load: Load, users: list[Account], rooms: list[str], tag: str) -> None:
        self.ledger = Ledger()
        self._load = load
        self._users = users
        self._rooms = rooms
        self._tag = f"{load.tag}/{tag}/"

    def request(self, worker: int, number: int) -> bytes:
        user = self._users[worker % len(self._users)]
        return self._load.api.send(user, self._room(worker, number), f"{self._tag}{worker}", number)

    def check(self, worker: int, number: int, response: Response) -> None:
        event_id = text(parsed(response), "event_id", "$")
        self.ledger.add(self._room(worker, number), event_id, f"{self._tag}{worker}", number)

    def _room(self, worker: int, number: int) -> str:
        return self._rooms[(worker + number) % len(self._rooms)]


class Send(Scenario):
    name = "send"
    about = "message sends at growing concurrency, 10 users all in 10 rooms"

    async def prepare(self) -> None:
        self.users = await self.load.accounts(_USERS)
        self.rooms = [await self.load.room(self.users) for _ in range(_USERS)]

    async def measure(self) -> None:
        for concurrency in self.sizes.send:
            sender = Sender(self.load, self.users, self.rooms, self.load.new_name())
            await self.load.loop(f"send, {concurrency} at once", concurrency, sender.request, sender.check)
            await sender.ledger.verify(self.load, self.users[0])
