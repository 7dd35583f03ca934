"""Servers that would not hear of each other do not use one store together."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from storage.errors import StoreRefused, StoreReplaced
from storage.mongo import MongoStore, lease
from storage.store import Occupant
from tests.storage.conftest import BACKENDS
from tests.storage.entries import append, message

Open = Callable[[], Awaitable[MongoStore]]
BY_ITSELF = Occupant("one.example.org:8008", "")
A_SECOND = Occupant("two.example.org:8008", "")
REPLICA, ANOTHER = Occupant("one.example.org:8008", "weft"), Occupant("two.example.org:8008", "weft")


@pytest.fixture
async def opened(tmp_path: object) -> AsyncIterator[Open]:
    """Opens one and the same store again and again."""
    backend = BACKENDS["mongo"](tmp_path)  # type: ignore[arg-type]
    yield backend.open  # type: ignore[misc]
    await backend.destroy()


@pytest.mark.parametrize(
    ("there", "comes"),
    [
        (BY_ITSELF, A_SECOND),
        (BY_ITSELF, ANOTHER),
        (REPLICA, A_SECOND),
        (REPLICA, Occupant("two.example.org:8008", "weft-of-others")),
        (
            Occupant("one.example.org:8008", "weft", "these brokers"),
            Occupant("two.example.org:8008", "weft", "those brokers"),
        ),
    ],
    ids=["both alone", "replica beside one alone", "alone beside a replica", "another bus", "other brokers"],
)
async def test_a_server_that_would_not_be_heard_of_is_refused(
    opened: Open, there: Occupant, comes: Occupant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "RENEWED_EVERY_S", 0.2)
    first, second = await opened(), await opened()
    await first.claim(there)
    with pytest.raises(
        StoreRefused, match=r"one\.example\.org:8008 has this store open.*bus\.uri"
    ) as refused:
        await second.claim(comes)
    assert "\n" not in str(refused.value)
    assert (await second.examine()).occupants == [there]
    await append(first.log, 0, message("goes on"))


async def test_replicas_on_one_bus_are_let_in(opened: Open) -> None:
    """Those among them, too, of whose brokers the release before said nothing."""
    stores = [await opened() for _ in range(3)]
    told = Occupant(REPLICA.address, REPLICA.bus, "these brokers")
    await asyncio.gather(stores[0].claim(told), stores[1].claim(ANOTHER), stores[2].claim(told))
    there = (await stores[0].examine()).occupants
    assert sorted(occupant.address for occupant in there) == [
        REPLICA.address,
        REPLICA.address,
        ANOTHER.address,
    ]


async def test_of_several_that_come_at_once_one_is_let_in(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "RENEWED_EVERY_S", 0.2)
    stores = [await opened() for _ in range(4)]
    claims = await asyncio.gather(*(store.claim(BY_ITSELF) for store in stores), return_exceptions=True)
    assert sorted(isinstance(claim, StoreRefused) for claim in claims) == [False, True, True, True]
    assert len((await stores[0].examine()).occupants) == 1


async def test_a_server_that_was_stopped_is_not_waited_for(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "LOOK_AGAIN_S", 1000)
    first, second = await opened(), await opened()
    await first.claim(BY_ITSELF)
    await first.close()
    async with asyncio.timeout(10):
        await second.claim(A_SECOND)


async def test_a_server_that_is_silent_too_long_loses_the_store_and_writes_no_more(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when it crashed, or was frozen."""
    monkeypatch.setattr(lease, "LEASE_S", 1)
    monkeypatch.setattr(lease, "RENEWED_EVERY_S", 4.0)
    silent, heir = await opened(), await opened()
    await silent.claim(BY_ITSELF)
    await append(silent.log, 0, message("before"))
    monkeypatch.setattr(lease, "RENEWED_EVERY_S", 0.2)
    async with asyncio.timeout(3):
        await heir.claim(A_SECOND)
    await asyncio.sleep(4)
    with pytest.raises(StoreReplaced, match=r"two\.example\.org:8008 has taken the store.*bus\.uri"):
        await silent.log.append(0, 1, [message("after")])
    assert await heir.log.append(0, 1, [message("of the heir")]) == 2


async def test_a_server_that_was_silent_keeps_a_store_that_nobody_took(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "LEASE_S", 1)
    monkeypatch.setattr(lease, "RENEWED_EVERY_S", 1.5)
    store = await opened()
    await store.claim(BY_ITSELF)
    await asyncio.sleep(1.2)
    assert (await store.examine()).occupants == []
    await asyncio.sleep(0.8)
    assert (await store.examine()).occupants == [BY_ITSELF]
    await append(store.log, 0, message("goes on"))
