"""The search index on MongoDB: a document for each event, with an index over its words.

A document's `_id` is the order of its hits, so that within a room the index gives the newest matches
first. `words` holds the words as they come, repeated ones too, from which a hit's score is made.
"""

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

from bson import Int64
from pymongo.errors import BulkWriteError

from storage.mongo.connection import Connection, Document, whole
from storage.mongo.faults import duplicate, writing
from storage.mongo.schema import BY_EVENT, BY_ID, BY_WORD, SEARCH
from storage.search import ORDER_BITS, SearchDocument, SearchHit, SearchQuery

ROOMS_AT_ONCE = 100
"""As many ranges of the index the server merges by order; of more it would sort the matches."""
REMOVED_AT_ONCE = 500

SATURATION = 1.2
USUAL_LENGTH = 10
"""Of a message, in words. Being repeated tells less and less; being one of many words tells less, too."""


class MongoSearch:
    """Implements `storage.search.SearchIndex`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._documents = connection.database[SEARCH]

    async def add(self, documents: Sequence[SearchDocument]) -> None:
        latest = {document.event_id: document for document in documents}
        filed = [(_order(document), document) for document in latest.values()]
        # What is there of an event may be at another time.
        where = {"event_id": {"$in": list(latest)}}
        if older := await self._connection.find(SEARCH, where, hint=BY_EVENT, fields={"event_id": 1}):
            await self.remove([each["event_id"] for each in older])
        # Another replica may be filing the same.
        while taken := await whole(self._file(filed)):
            holders = await self._holders([order for order, _ in taken])
            own = {order for order, document in taken if holders.get(order) == document.event_id}
            await self.remove([holders[order] for order in own])
            others = holders.keys() - own
            filed = [(order + (order in others), document) for order, document in taken]

    async def _holders(self, orders: Sequence[int]) -> dict[int, str]:
        """The events that have these orders."""
        where = {"_id": {"$in": list(orders)}}
        found = await self._connection.find(SEARCH, where, hint=BY_ID, fields={"event_id": 1})
        return {each["_id"]: each["event_id"] for each in found}

    async def _file(self, filed: Sequence[tuple[int, SearchDocument]]) -> list[tuple[int, SearchDocument]]:
        """Insert documents; those whose order is taken, perhaps by an older document of their event."""
        documents = [_stored(order, document) for order, document in filed]
        with writing():
            async with self._connection.session() as session:
                try:
                    await self._documents.insert_many(documents, ordered=False, session=session)
                except BulkWriteError as error:
                    if duplicate(error) is None:
                        raise
                    return [filed[each["index"]] for each in error.details["writeErrors"]]
        return []

    async def remove(self, event_ids: Sequence[str]) -> None:
        for start in range(0, len(event_ids), REMOVED_AT_ONCE):
            some = list(event_ids[start : start + REMOVED_AT_ONCE])
            await whole(self._delete({"event_id": {"$in": some}}, hint=BY_EVENT))

    async def remove_room(self, room_id: str) -> None:
        await whole(self._delete({"room_id": room_id}, hint=BY_WORD))

    async def _delete(self, where: Document, *, hint: str) -> None:
        with writing():
            async with self._connection.session() as session:
                await self._documents.delete_many(where, hint=hint, session=session)

    async def search(
        self, query: SearchQuery, *, below: int | None = None, limit: int, ranked: bool
    ) -> list[SearchHit]:
        if not query.words or not all(map(_is_text, query.words)):
            return []
        where = _condition(query, below)
        found: list[Document] = []
        for start in range(0, len(query.rooms), ROOMS_AT_ONCE):
            rooms = {"room_id": {"$in": list(query.rooms[start : start + ROOMS_AT_ONCE])}}
            found += await self._connection.find(
                SEARCH, rooms | where, hint=BY_WORD, sort=[("_id", -1)], limit=limit
            )
        words = frozenset(query.words)
        hits = [SearchHit(each["event_id"], int(each["_id"]), _score(each["words"], words)) for each in found]
        hits.sort(key=lambda hit: -hit.order)
        del hits[limit:]
        if ranked:
            hits.sort(key=lambda hit: -hit.score)
        return hits


def _order(document: SearchDocument) -> int:
    """By time, then by the event's id."""
    digest = blake2b(document.event_id.encode(), digest_size=4).digest()
    return max(0, document.ts) << ORDER_BITS | int.from_bytes(digest, "big") >> (32 - ORDER_BITS)


def _stored(order: int, document: SearchDocument) -> Document:
    return {
        "_id": Int64(order),
        "event_id": document.event_id,
        "room_id": document.room_id,
        "sender": document.sender,
        "key": document.key,
        "words": list(document.words),
    }


def _condition(query: SearchQuery, below: int | None) -> dict[str, Any]:
    where: dict[str, Any] = {"words": {"$all": list(query.words)}}
    senders: dict[str, Any] = {}
    if query.senders is not None:
        senders["$in"] = list(query.senders)
    if query.not_senders:
        senders["$nin"] = list(query.not_senders)
    if senders:
        where["sender"] = senders
    if query.keys is not None:
        where["key"] = {"$in": list(query.keys)}
    if below is not None:
        where["_id"] = {"$lt": below}
    return where


def _is_text(word: str) -> bool:
    """Whether it can be asked for: half a surrogate pair is in no document."""
    return not any("\ud800" <= character <= "\udfff" for character in word)


def _score(words: Sequence[str], wanted: frozenset[str]) -> float:
    """How well a document matches: by how often it has the words, and how many others."""
    length = 0.25 + 0.75 * len(words) / USUAL_LENGTH
    counts = (words.count(word) for word in wanted)
    return sum(count * (SATURATION + 1) / (count + SATURATION * length) for count in counts)
