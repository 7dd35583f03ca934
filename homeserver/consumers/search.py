"""Files events for searching, behind the log and many at a time.

Sending waits for none of this. What was redacted or rewritten is taken out, and so is everything of a
room that becomes encrypted: rooms that are encrypted are not searched (spec: client-server "Server
Side Search").
"""

from collections.abc import Sequence

from homeserver.clock import Clock
from homeserver.consumers.redactions import Redactions
from homeserver.rooms.rooms import Rooms
from homeserver.search.documents import document_of, is_searched
from storage.log import Entry, Kind
from storage.search import SearchDocument, SearchIndex


class SearchFiling:
    """The handler behind the consumer "search"; takes batches."""

    def __init__(self, index: SearchIndex, rooms: Rooms, redactions: Redactions, now: Clock) -> None:
        self._index = index
        self._rooms = rooms
        self._redactions = redactions
        self._now = now

    @staticmethod
    def wants(entry: Entry) -> bool:
        if entry.kind is Kind.REWRITTEN:
            return True
        if entry.kind is not Kind.EVENT:
            return False
        return is_searched(entry) or Redactions.wants(entry) or _encrypts(entry)

    async def handle(self, shard: int, entries: Sequence[Entry]) -> None:
        documents: dict[str, SearchDocument] = {}
        gone: list[str] = []
        closed: list[str] = []
        for entry in entries:
            if _encrypts(entry):
                closed.append(entry.stream)
            elif (target := await self._target(shard, entry)) is not None:
                documents.pop(target, None)
                gone.append(target)
            elif (document := document_of(entry, self._now())) is not None:
                documents[document.event_id] = document
        if searched := [document for document in documents.values() if await self._is_open(document.room_id)]:
            await self._index.add(searched)
        if gone:
            await self._index.remove(gone)
        for room_id in closed:
            await self._index.remove_room(room_id)

    async def _is_open(self, room_id: str) -> bool:
        room = await self._rooms.get(room_id)
        return room is not None and not room.is_encrypted

    async def _target(self, shard: int, entry: Entry) -> str | None:
        """The event that this entry takes out."""
        if entry.kind is Kind.REWRITTEN:
            return entry.target
        if not Redactions.wants(entry):
            return None
        redacted = await self._redactions.redacted_by(shard, entry)
        return redacted.event_id if redacted is not None else None


def _encrypts(entry: Entry) -> bool:
    return entry.kind is Kind.EVENT and entry.type == "m.room.encryption" and entry.key == ""
