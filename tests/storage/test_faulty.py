"""The store that fails on purpose does so at the write asked for, and nowhere else."""

import pytest

from storage.errors import OutcomeUnknown, StoreUnavailable
from storage.store import Store
from tests.storage.entries import message
from tests.storage.faulty import FaultyStore
from tests.storage.records import PEOPLE, Person


async def write_thrice(store: Store) -> None:
    tail = await store.log.tail(0)
    await store.log.append(0, tail, [message(tail)])
    people = store.collection(PEOPLE)
    await people.put(Person(user_id="a"))
    assert await people.get("a") is not None
    await people.delete("a")


async def test_writes_are_counted_and_reads_are_not(store: Store) -> None:
    faulty = FaultyStore(store)
    await write_thrice(faulty)
    assert faulty.writes == 3


@pytest.mark.parametrize(("fail_at", "tail", "left"), [(1, 0, False), (2, 1, False), (3, 1, True)])
async def test_the_write_asked_for_fails_and_stores_nothing(
    store: Store, fail_at: int, tail: int, left: bool
) -> None:
    faulty = FaultyStore(store, fail_at)
    with pytest.raises(StoreUnavailable, match="injected"):
        await write_thrice(faulty)
    assert await store.log.tail(0) == tail
    assert (await store.collection(PEOPLE).get("a") is not None) == left
    await write_thrice(faulty)


async def test_a_lost_answer_leaves_the_write_stored(store: Store) -> None:
    faulty = FaultyStore(store, 1, error=OutcomeUnknown("no answer"), stored=True)
    with pytest.raises(OutcomeUnknown):
        await write_thrice(faulty)
    assert await store.log.tail(0) == 1
    faulty.arm(2)
    with pytest.raises(OutcomeUnknown):
        await write_thrice(faulty)
    assert await store.log.tail(0) == 2
    assert await store.collection(PEOPLE).get("a") == Person(user_id="a")
