"""Reading rooms: pages of a long timeline; the members, the state and first syncs of a big room."""

from bench.crowd import Crowds
from bench.http1 import Response
from bench.load import Load
from bench.matrix import WrongAnswer, marks, parsed, timeline_filter
from bench.scenarios.scenario import Scenario

_PAGE = 100
_REPEATS = 40
_FIRST_SYNCS = 20


class Rooms(Scenario):
    name = "rooms"
    about = "pages of /messages in a long room; /members, /state and its members' first syncs of a big one"

    def __init__(self, load: Load, crowds: Crowds) -> None:
        super().__init__(load, crowds)
        self._from = ""
        self._next = 0

    async def prepare(self) -> None:
        self.reader, self.long_room = await self.crowds.long_room(self.load)
        await self.crowds.get(self.load, self.sizes.big_room)

    async def measure(self) -> None:
        self._rewind()
        await self.load.loop("messages, pages of 100", 1, self._page, self._check_page)
        await self._big_room("members")
        await self._big_room("joined_members")
        await self._big_room("state")
        for lazy in (False, True):
            await self._first_syncs(lazy)

    def _rewind(self) -> None:
        self._from = ""
        self._next = self.sizes.long_room - 1

    def _page(self, worker: int, number: int) -> bytes:
        return self.load.api.messages(self.reader, self.long_room, self._from, limit=_PAGE)

    def _check_page(self, worker: int, number: int, response: Response) -> None:
        """Pages go back through the messages one by one, then begin again; the room's first page differs."""
        try:
            page = parsed(response)
            for mark in marks(page["chunk"], self.crowds.LONG):
                if mark != self._next:
                    raise WrongAnswer(f"/messages shows message {mark} at the place of {self._next}")
                self._next -= 1
        except WrongAnswer:
            self._rewind()
            raise
        self._from = page.get("end", "")
        if not self._from:
            if self._next >= 0:
                raise WrongAnswer(f"/messages ends {self._next + 1} messages early")
            self._rewind()
        elif self._next < 0:
            self._rewind()

    async def _big_room(self, what: str) -> None:
        crowd = await self.crowds.get(self.load, self.sizes.big_room)
        members = crowd.size + 1

        def request(worker: int, number: int) -> bytes:
            return self.load.api.room("GET", crowd.sender, crowd.room, what)

        def check(worker: int, number: int, response: Response) -> None:
            if response.status != 200:
                parsed(response)
            named = b'"display_name"' if what == "joined_members" else b'"m.room.member"'
            found = response.body.count(named)
            if found < members:
                raise WrongAnswer(f"/{what} shows {found} of {members} members")

        name = f"{what} of a room with {crowd.size}"
        await self.load.loop(name, 1, request, check, most=_REPEATS)

    async def _first_syncs(self, lazy: bool) -> None:
        crowd = await self.crowds.get(self.load, self.sizes.big_room)
        readers = crowd.members[:_FIRST_SYNCS]
        filter_json = timeline_filter(10, lazy=lazy)

        def request(worker: int, number: int) -> bytes:
            return self.load.first_sync(readers[number % len(readers)], filter_json)

        def check(worker: int, number: int, response: Response) -> None:
            joined = parsed(response)["rooms"]["join"][crowd.room]
            events = joined["state"]["events"] + joined["timeline"]["events"]
            found = sum(event["type"] == "m.room.member" for event in events)
            if found == 0 or (found < crowd.size + 1 and not lazy):
                raise WrongAnswer(f"a first sync shows {found} of {crowd.size + 1} members")

        name = f"first sync, room with {crowd.size}, {'lazy' if lazy else 'all'} members"
        await self.load.loop(name, 1, request, check, fewest=_FIRST_SYNCS, most=_FIRST_SYNCS)
