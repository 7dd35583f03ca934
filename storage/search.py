"""The search port: finds events by the words they hold, within rooms.

What a word is, is settled above: documents and queries come as words already, made of letters, marks
and digits, and a word is matched whole. So a backend needs no language of its own: an inverted index
will do, a full-text index that takes words as they are, or an indexed array of words.

The index is a projection of the log. It may be thrown away and made again, and everything in it can
be taken out by the event's id.
"""

from collections.abc import Sequence
from typing import Protocol

import msgspec

ORDER_BITS = 20
"""An order is milliseconds since 1970, and below them this many bits that tell events apart."""


class SearchDocument(msgspec.Struct, frozen=True):
    """What is to be found of one event. `key` says which part of an event the words are of."""

    event_id: str
    room_id: str
    sender: str
    key: str
    ts: int
    """Milliseconds since 1970."""
    words: Sequence[str]


class SearchQuery(msgspec.Struct, frozen=True):
    """Documents of any of these rooms that hold all of the words.

    A backend may find a few of other rooms, keys or senders, too: who asks looks at each event anyway.
    """

    words: Sequence[str]
    rooms: Sequence[str]
    keys: Sequence[str] | None = None
    senders: Sequence[str] | None = None
    not_senders: Sequence[str] = ()


class SearchHit(msgspec.Struct, frozen=True):
    """`order` is by time, and different for each event; `score` is greater the better it matches."""

    event_id: str
    order: int
    score: float


class SearchIndex(Protocol):
    """Like the collections: what was written is durable when the call returns."""

    async def add(self, documents: Sequence[SearchDocument]) -> None:
        """In one commit; a document of an event that is there already replaces it."""
        ...

    async def remove(self, event_ids: Sequence[str]) -> None:
        """Take events out; those that are not there are passed over.

        They are not found any more when the call returns; their words leave the store as soon as may be.
        """
        ...

    async def remove_room(self, room_id: str) -> None:
        """Take all events of a room out, in batches."""
        ...

    async def search(
        self, query: SearchQuery, *, below: int | None = None, limit: int, ranked: bool
    ) -> list[SearchHit]:
        """The newest `limit` matches with an order less than `below`; the newest or the best first.

        No words, no rooms or an empty list of keys or senders match nothing.
        """
        ...
