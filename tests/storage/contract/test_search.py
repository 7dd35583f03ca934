"""The search index: whole words, all of them, within the given rooms; and what is removed is gone."""

from typing import Any

import pytest

from storage.search import SearchDocument, SearchIndex, SearchQuery
from storage.store import Store
from tests.storage.conftest import Backend
from tests.storage.entries import ALICE, ROOM, event_id

BOB = "@bob:example.org"
OTHER = "!other:example.org"
T = 1_700_000_000_000


@pytest.fixture
def index(store: Store) -> SearchIndex:
    return store.search


def document(name: object, text: str, **fields: Any) -> SearchDocument:
    defaults: dict[str, Any] = {"room_id": ROOM, "sender": ALICE, "key": "content.body", "ts": T}
    return SearchDocument(event_id=event_id(name), words=text.split(), **(defaults | fields))


async def found(
    index: SearchIndex,
    text: str,
    *,
    below: int | None = None,
    limit: int = 100,
    ranked: bool = False,
    **narrowed: Any,
) -> list[str]:
    query = SearchQuery(words=text.split(), rooms=narrowed.pop("rooms", [ROOM]), **narrowed)
    return [hit.event_id for hit in await index.search(query, below=below, limit=limit, ranked=ranked)]


def ids(*names: object) -> list[str]:
    return [event_id(name) for name in names]


async def test_all_words_must_be_there_and_whole(index: SearchIndex) -> None:
    await index.add(
        [document("a", "men and martians"), document("b", "martian men"), document("c", "martians")]
    )
    assert await found(index, "martians") == ids("a", "c") or await found(index, "martians") == ids("c", "a")
    assert await found(index, "men martians") == ids("a")
    assert await found(index, "mart") == []
    assert await found(index, "martians women") == []


@pytest.mark.parametrize("word", ["größe", "日本", "ж", "or", "AND", "not", "near", "x" * 200, "100"])
async def test_words_are_taken_as_they_are(index: SearchIndex, word: str) -> None:
    await index.add([document("a", f"one {word} two"), document("b", "one two")])
    assert await found(index, word) == ids("a")
    assert await found(index, f"two {word}") == ids("a")


@pytest.mark.parametrize("word", ["*", "^a", '"', "words:a", "a)", "-", "{scope}", "a\0b", "\ud800"])
async def test_what_is_no_word_breaks_nothing(index: SearchIndex, word: str) -> None:
    await index.add([document("a", "one")])
    assert await found(index, word) == []
    assert await found(index, "one") == ids("a")


async def test_only_the_given_rooms_keys_and_senders(index: SearchIndex) -> None:
    await index.add(
        [
            document("body", "x"),
            document("name", "x", key="content.name", ts=T + 1),
            document("bob", "x", sender=BOB, ts=T + 2),
            document("other", "x", room_id=OTHER, ts=T + 3),
        ]
    )
    assert await found(index, "x", rooms=[ROOM, OTHER]) == ids("other", "bob", "name", "body")
    assert await found(index, "x", rooms=[OTHER]) == ids("other")
    assert await found(index, "x", keys=["content.name"]) == ids("name")
    assert await found(index, "x", senders=[BOB]) == ids("bob")
    assert await found(index, "x", not_senders=[BOB]) == ids("name", "body")
    assert await found(index, "x", senders=[ALICE, BOB], not_senders=[ALICE]) == ids("bob")


async def test_what_asks_for_nothing_finds_nothing(index: SearchIndex) -> None:
    await index.add([document("a", "x")])
    assert await found(index, "") == []
    assert await found(index, "x", rooms=[]) == []
    assert await found(index, "x", keys=[]) == []
    assert await found(index, "x", senders=[]) == []


async def test_words_that_narrow_are_not_found_as_words(index: SearchIndex) -> None:
    await index.add([document("a", "x")])
    for word in (ROOM, ALICE, "content.body", "r", "scope"):
        assert await found(index, word) == []


async def test_newest_first_in_pages(index: SearchIndex) -> None:
    await index.add([document(n, "x", ts=T + n // 2) for n in range(11)])
    query = SearchQuery(words=["x"], rooms=[ROOM])
    everything = await index.search(query, limit=100, ranked=False)
    orders = [hit.order for hit in everything]
    assert {type(order) for order in orders} == {int}
    assert orders == sorted(set(orders), reverse=True)
    assert [order >> 20 for order in orders] == sorted((T + n // 2 for n in range(11)), reverse=True)
    paged: list[str] = []
    below: int | None = None
    while page := await index.search(query, below=below, limit=3, ranked=False):
        paged += [hit.event_id for hit in page]
        below = page[-1].order
    assert paged == [hit.event_id for hit in everything]


async def test_ranked_the_better_match_comes_first(index: SearchIndex) -> None:
    await index.add(
        [
            document("much", "tea tea tea", ts=T),
            document("little", "tea " + "word " * 50, ts=T + 1),
            *(document(n, "something else", ts=T + 2) for n in range(20)),
        ]
    )
    assert await found(index, "tea", ranked=True) == ids("much", "little")
    assert await found(index, "tea") == ids("little", "much")
    hits = await index.search(SearchQuery(words=["tea"], rooms=[ROOM]), limit=9, ranked=True)
    assert hits[0].score > hits[1].score > 0


async def test_the_same_event_again_replaces_it(index: SearchIndex) -> None:
    await index.add([document("a", "old")])
    await index.add([document("a", "new"), document("a", "newest")])
    assert await found(index, "old") == await found(index, "new") == []
    assert await found(index, "newest") == ids("a")


async def test_the_same_event_at_another_time_replaces_it_too(index: SearchIndex) -> None:
    """Of one that was sent from the future the time is that when it is filed."""
    await index.add([document("a", "first words", ts=T), document("b", "others words", ts=T)])
    await index.add([document("a", "first words", ts=T + 1)])
    assert await found(index, "words") == ids("a", "b")


async def test_of_many_events_of_one_millisecond_each_is_found_once(index: SearchIndex) -> None:
    """So many that some of them must share what tells events of one millisecond apart."""
    events = [document(n, "x") for n in range(3000)]
    for first in (0, 1500, 1000):
        await index.add(events[first : first + 1500])
    hits = await found(index, "x", limit=4000)
    assert len(hits) == len(set(hits)) == 3000


async def test_removed_events_and_rooms_are_not_found(index: SearchIndex) -> None:
    await index.add([document(n, "x") for n in range(500)] + [document("other", "x", room_id=OTHER)])
    await index.remove(ids(0, "never there", *range(200, 500)))
    assert sorted(await found(index, "x", limit=1000)) == sorted(ids(*range(1, 200)))
    await index.remove_room(ROOM)
    assert await found(index, "x", rooms=[ROOM, OTHER]) == ids("other")
    await index.remove([])


async def test_the_index_survives_reopening(backend: Backend) -> None:
    store = await backend.open()
    await store.search.add([document("a", "x")])
    await backend.close()
    again = await backend.open()
    assert await found(again.search, "x") == ids("a")


async def test_words_of_what_was_removed_leave_the_store(backend: Backend) -> None:
    """HARDENING 18."""
    store = await backend.open()
    await store.search.add([document(n, f"common word{n}") for n in range(300)])
    await store.search.add([document("secret", "common xyzzyplugh")])
    await store.search.add([document(n, f"common word{n}") for n in range(300, 400)])
    await store.search.remove(ids("secret"))
    await backend.close()
    kept = backend.data.kept()
    assert b"word399" in kept
    assert b"xyzzy" not in kept
    again = await backend.open()
    assert len(await found(again.search, "common", limit=1000)) == 400
