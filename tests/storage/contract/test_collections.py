"""Typed records: each operation is atomic on one record."""

import asyncio
from collections import Counter

import msgspec
import pytest

from storage.collection import Collection, CollectionSpec, Index, Puts, Record
from storage.errors import AlreadyExists
from storage.store import Store
from tests.storage.conftest import Backend
from tests.storage.records import KEYS, PEOPLE, Key, Person


@pytest.fixture
def people(store: Store) -> Collection[Person]:
    return store.collection(PEOPLE)


@pytest.fixture
def keys(store: Store) -> Collection[Key]:
    return store.collection(KEYS)


def ids(records: list[Person]) -> list[str]:
    return [record.user_id for record in records]


async def test_a_record_comes_back_as_it_was_put(people: Collection[Person]) -> None:
    full = Person(user_id="ünï", email="a@b", age=-(2**53), city="", notes={"a": [1, None, {"b": "🧵"}]})
    bare = Person(user_id="bare")
    await people.insert(full)
    await people.put(bare)
    stored = await people.get("ünï")
    assert stored == full
    assert type(stored.age) is int, "not a class of the driver's, which nobody else can write down"
    assert await people.get("bare") == bare
    assert await people.get("nobody") is None


async def test_get_many_gives_those_that_exist_in_the_order_asked(keys: Collection[Key]) -> None:
    records = [Key(user_id="u", device_id="d", key_id=str(i), order=i) for i in range(50)]
    await keys.put_many(records)
    asked = [("u", "d", str(i)) for i in (30, 99, 2, 7)]
    assert await keys.get_many(asked) == [records[30], records[2], records[7]]
    assert await keys.get_many([]) == []
    every = [("u", "d", str(i)) for i in reversed(range(50))]
    assert await keys.get_many(every) == records[::-1]


async def test_insert_fails_when_the_key_is_taken(people: Collection[Person]) -> None:
    await people.insert(Person(user_id="a", age=1))
    with pytest.raises(AlreadyExists) as caught:
        await people.insert(Person(user_id="a", age=2))
    assert (caught.value.collection, caught.value.index) == ("people", "key")
    assert await people.get("a") == Person(user_id="a", age=1)


async def test_unique_values_belong_to_one_record(people: Collection[Person]) -> None:
    a, b = Person(user_id="a", email="x@y"), Person(user_id="b")
    await people.insert(a)
    await people.insert(b)
    for refused in (
        people.insert(Person(user_id="c", email="x@y")),
        people.put(Person(user_id="c", email="x@y")),
        people.put(Person(user_id="b", email="x@y")),
        people.put_many([Person(user_id="b", email="x@y")]),
        people.replace_if(b, Person(user_id="b", email="x@y")),
    ):
        with pytest.raises(AlreadyExists) as caught:
            await refused
        assert (caught.value.collection, caught.value.index) == ("people", "by_email")
    assert await people.find("key") == [a, b]
    await people.put(Person(user_id="a", email="x@y", age=3))
    await people.put(Person(user_id="a"))
    await people.put(Person(user_id="b", email="x@y"))


async def test_none_is_never_a_unique_value(people: Collection[Person]) -> None:
    await people.insert(Person(user_id="a"))
    await people.insert(Person(user_id="b"))
    assert await people.count("key") == 2


async def test_put_replaces_the_whole_record(people: Collection[Person]) -> None:
    await people.put(Person(user_id="a", email="x@y", age=1, city="here"))
    await people.put(Person(user_id="a", city="there"))
    assert await people.get("a") == Person(user_id="a", city="there")
    assert await people.find("by_email", ("x@y",)) == []
    assert await people.find("by_city", ("here",)) == []


async def test_replace_if_needs_the_record_to_be_as_it_was(people: Collection[Person]) -> None:
    old, new = Person(user_id="a", age=1), Person(user_id="a", age=2, city="x")
    assert not await people.replace_if(old, new)
    await people.insert(old)
    assert await people.replace_if(old, new)
    assert not await people.replace_if(old, new)
    assert await people.get("a") == new
    assert await people.find("by_city", ("x",)) == [new]


async def test_replace_if_of_none_needs_that_there_is_no_record(people: Collection[Person]) -> None:
    first = Person(user_id="a", email="x@y", age=1)
    assert await people.replace_if(None, first)
    assert not await people.replace_if(None, Person(user_id="a", age=2))
    with pytest.raises(AlreadyExists) as caught:
        await people.replace_if(None, Person(user_id="b", email="x@y"))
    assert caught.value.index == "by_email"
    assert await people.find("key") == [first]


async def test_replacing_none_by_many_at_once_lets_one_win(people: Collection[Person]) -> None:
    won = await asyncio.gather(*(people.replace_if(None, Person(user_id="a", age=i)) for i in range(30)))
    assert won.count(True) == 1
    assert await people.get("a") == Person(user_id="a", age=won.index(True))


async def test_what_comes_with_a_replacement_is_put_only_if_it_was_replaced(
    people: Collection[Person], keys: Collection[Key]
) -> None:
    old, new = Person(user_id="a", age=1), Person(user_id="a", age=2)
    records = [Key(user_id="a", device_id="d", key_id=f"{i:03}", order=i) for i in range(50)]
    refused = Puts(keys, [Key(user_id="b", device_id="d", key_id="0", order=0)])
    assert not await people.replace_if(old, new, then=(refused,))
    assert await people.replace_if(None, old, then=(Puts(keys, records[:30]), Puts(people, ())))
    assert not await people.replace_if(None, new, then=(refused,))
    changed = [msgspec.structs.replace(record, body="new") for record in records[20:]]
    assert await people.replace_if(old, new, then=(Puts(keys, changed), Puts(people, [Person(user_id="c")])))
    assert await people.find("key") == [new, Person(user_id="c")]
    assert await keys.find("key") == records[:20] + changed


async def test_replace_if_of_simultaneous_changes_lets_one_win(people: Collection[Person]) -> None:
    """Fifty counters that each add one: none is lost."""
    await people.insert(Person(user_id="a", age=0))

    async def add_one() -> int:
        attempts = 0
        while True:
            attempts += 1
            old = await people.get("a")
            assert old is not None
            assert old.age is not None
            await asyncio.sleep(0)
            if await people.replace_if(old, Person(user_id="a", age=old.age + 1)):
                return attempts

    attempts = await asyncio.gather(*(add_one() for _ in range(50)))
    assert await people.get("a") == Person(user_id="a", age=50)
    assert max(attempts) > 1


async def test_replace_if_refuses_another_key(people: Collection[Person]) -> None:
    with pytest.raises(ValueError, match="key"):
        await people.replace_if(Person(user_id="a"), Person(user_id="b"))


async def test_inserting_one_key_at_once_lets_one_win(people: Collection[Person]) -> None:
    results = await asyncio.gather(
        *(people.insert(Person(user_id="a", age=i)) for i in range(30)), return_exceptions=True
    )
    winners = [i for i, result in enumerate(results) if result is None]
    assert len(winners) == 1
    assert sum(isinstance(result, AlreadyExists) for result in results) == 29
    assert await people.get("a") == Person(user_id="a", age=winners[0])


async def test_take_gives_each_record_to_one_of_fifty_takers(keys: Collection[Key]) -> None:
    records = [Key(user_id="u", device_id="d", key_id=f"{i:03}", order=i) for i in range(40)]
    await keys.put_many(records)
    await keys.insert(Key(user_id="u", device_id="other", key_id="x", order=0))
    takers = await asyncio.gather(*(keys.take("by_order", [("u", "d")] * 2, "parts") for _ in range(25)))
    taken = [key for of_one in takers for key in of_one]
    assert taken.count(None) == 10
    assert Counter(key.key_id for key in taken if key) == Counter(key.key_id for key in records)
    assert await keys.count("key") == 1


async def test_take_follows_the_index(keys: Collection[Key]) -> None:
    for order, key_id in ((3, "a"), (1, "b"), (2, "c")):
        await keys.insert(Key(user_id="u", device_id="d", key_id=key_id, order=order))
    taken = [(await keys.take("by_order", [("u", "d")], "parts"))[0] for _ in range(4)]
    assert [key and key.key_id for key in taken] == ["b", "c", "a", None]
    assert await keys.take("key", [("u", "d")], "parts") == [None]


async def test_take_answers_prefix_by_prefix(keys: Collection[Key]) -> None:
    for device_id, key_id in (("d", "a"), ("e", "b"), ("e", "c")):
        await keys.insert(Key(user_id="u", device_id=device_id, key_id=key_id, order=1))
    taken = await keys.take("key", [("u", "e"), ("u", "none"), ("u", "d")], "parts")
    assert [key and key.key_id for key in taken] == ["b", None, "a"]
    assert await keys.take("key", [("u", "e", "b")], "parts") == [None]
    assert await keys.take("key", [], "parts") == []
    assert [key.key_id for key in await keys.find("key")] == ["c"]


async def test_take_gives_the_items_of_a_record_before_the_record(keys: Collection[Key]) -> None:
    parts = (("1", "one"), ("2", "two"))
    await keys.put_many(
        [
            Key(user_id="u", device_id="d", key_id="a", order=1, body="A", parts=parts),
            Key(user_id="u", device_id="d", key_id="b", order=2),
        ]
    )
    taken: list[tuple[str, str, tuple[tuple[str, str], ...]] | None] = []
    left = []
    for _ in range(5):
        (key,) = await keys.take("by_order", [("u", "d")], "parts")
        taken.append(key and (key.key_id, key.body, key.parts))
        left.append([(key.key_id, len(key.parts)) for key in await keys.find("by_order")])
    assert taken == [("a", "A", parts[:1]), ("a", "A", parts[1:]), ("a", "A", ()), ("b", "", ()), None]
    assert left == [[("a", 1), ("b", 0)], [("a", 0), ("b", 0)], [("b", 0)], [], []]


async def test_take_gives_each_item_to_one_of_fifty_takers(keys: Collection[Key]) -> None:
    """Each of eight records is found empty by several at once, and removed by one of them."""
    records = [
        Key(
            user_id="u",
            device_id="d",
            key_id=str(n),
            order=n,
            parts=tuple((f"{n}/{i}", "") for i in range(4)),
        )
        for n in range(8)
    ]
    await keys.put_many(records)
    takers = await asyncio.gather(*(keys.take("by_order", [("u", "d")], "parts") for _ in range(50)))
    taken = [key for of_one in takers for key in of_one]
    assert taken.count(None) == 10
    names = Counter(key.parts[0][0] if key.parts else key.key_id for key in taken if key)
    assert names == Counter([key.key_id for key in records] + [of[0] for key in records for of in key.parts])
    assert await keys.count("key") == 0


async def test_delete_tells_whether_it_was_there(people: Collection[Person]) -> None:
    await people.insert(Person(user_id="a", email="x@y"))
    assert await people.delete("a")
    assert not await people.delete("a")
    assert await people.get("a") is None
    await people.insert(Person(user_id="b", email="x@y"))


async def test_delete_where_removes_all_under_a_prefix(keys: Collection[Key]) -> None:
    await keys.put_many(
        [Key(user_id="u", device_id=d, key_id=str(i), order=i) for d in "ab" for i in range(1200)]
    )
    assert await keys.delete_where("by_order", ("u", "a", 5)) == 1
    assert await keys.delete_where("by_order", ("u", "a")) == 1199
    assert await keys.delete_where("by_order", ("u", "a")) == 0
    assert await keys.count("key", ("u", "b")) == 1200
    assert await keys.delete_where("key", ()) == 1200
    assert await keys.count("key") == 0


async def test_find_walks_an_index_both_ways_within_bounds(people: Collection[Person]) -> None:
    await people.put_many(
        [Person(user_id=f"{city}{age:02}", city=city, age=age) for city in ("x", "y") for age in range(30)]
    )
    x = [f"x{age:02}" for age in range(30)]
    assert ids(await people.find("by_city", ("x",))) == x
    assert ids(await people.find("by_city", ("x",), newest_first=True)) == x[::-1]
    assert ids(await people.find("by_city", ("x",), limit=3)) == x[:3]
    assert ids(await people.find("by_city", ("x",), newest_first=True, limit=3)) == x[:-4:-1]
    assert ids(await people.find("by_city", ("x",), after=26)) == x[27:]
    assert ids(await people.find("by_city", ("x",), before=3)) == x[:3]
    assert ids(await people.find("by_city", ("x",), after=4, before=8, newest_first=True)) == x[7:4:-1]
    assert ids(await people.find("by_city", ("x", 7))) == ["x07"]
    assert ids(await people.find("by_city", after="x", limit=2)) == ["y00", "y01"]
    assert ids(await people.find("by_city", before="y")) == x
    assert len(await people.find("by_city")) == 60
    assert ids(await people.find("key", after="x28", limit=3)) == ["x29", "y00", "y01"]
    assert ids(await people.find("key", ("y05",))) == ["y05"]
    assert await people.find("by_city", ("z",)) == []


async def test_a_record_with_none_in_any_field_is_not_in_the_index(people: Collection[Person]) -> None:
    await people.put_many(
        [
            Person(user_id="both", city="x", age=1),
            Person(user_id="no age", city="x"),
            Person(user_id="no city", age=1),
            Person(user_id="neither"),
        ]
    )
    assert ids(await people.find("by_city")) == ["both"]
    assert ids(await people.find("by_city", ("x",))) == ["both"]
    assert sorted(ids(await people.find("by_age", (1,)))) == ["both", "no city"]
    assert await people.count("by_city") == 1
    assert await people.count("key") == 4
    assert await people.delete_where("by_city", ("x",)) == 1
    assert await people.take("by_city", [("x",)], "parts") == [None]
    await people.put(Person(user_id="no age", city="x", age=0))
    assert ids(await people.find("by_city", ("x",))) == ["no age"]


async def test_find_prefix_gives_texts_that_start_so(people: Collection[Person]) -> None:
    names = [
        "a",
        "ab",
        "ab\U0010ffff",
        "ab\U0010ffff\U0010ffffz",
        "abc",
        "ac",
        "a%",
        "a_",
        "A",
        "\ud7ff",
        "\ue000",
    ]
    await people.put_many([Person(user_id=name, city="x", age=i) for i, name in enumerate(names)])

    async def found(text: str, limit: int = 100) -> list[str]:
        return ids(await people.find_prefix("key", (), text, limit=limit))

    for text in ("", "a", "ab", "ab\U0010ffff", "a%", "a_", "A", "zzz", "\ud7ff"):
        assert await found(text) == sorted(name for name in names if name.startswith(text)), text
    assert await found("a", limit=2) == ["a", "a%"]


async def test_find_prefix_works_below_other_fields(keys: Collection[Key]) -> None:
    await keys.put_many(
        [Key(user_id=u, device_id=d, key_id="k", order=1) for u in "ab" for d in ("one", "on", "two")]
    )
    found = await keys.find_prefix("key", ("a",), "on", limit=9)
    assert [(key.user_id, key.device_id) for key in found] == [("a", "on"), ("a", "one")]


async def test_text_is_ordered_by_code_points(people: Collection[Person]) -> None:
    names = ["", "B", "a", "b", "z", "é", "\ud7ff", "\uffff", "🧵"]
    await people.put_many([Person(user_id=name) for name in reversed(names)])
    assert ids(await people.find("key")) == names


async def test_an_unknown_index_or_too_long_a_prefix_is_an_error(people: Collection[Person]) -> None:
    with pytest.raises(KeyError):
        await people.find("by_shoe_size")
    with pytest.raises(ValueError, match="by_age"):
        await people.find("by_age", (1, 2))
    with pytest.raises(ValueError, match="by_age"):
        await people.find("by_age", (1,), after=2)
    with pytest.raises(ValueError, match="by_email"):
        await people.find_prefix("by_email", ("a",), "b", limit=1)


async def test_a_cancelled_caller_does_not_cancel_its_write(people: Collection[Person]) -> None:
    caller = asyncio.create_task(people.insert(Person(user_id="a")))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    await people.put(Person(user_id="b"))
    assert await people.get("a") == Person(user_id="a")


class PersonBefore(Record, frozen=True):
    """`Person` as an earlier release knew it."""

    user_id: str
    city: str | None = None
    age: int | None = None


async def test_a_spec_that_gains_fields_and_indexes_finds_the_old_records(backend: Backend) -> None:
    before = CollectionSpec("people", PersonBefore, ("user_id",), (Index("by_city", ("city",)),))
    store = await backend.open((before,))
    old = [PersonBefore(user_id=f"{i:04}", city="x" if i % 2 else None, age=i % 10) for i in range(2500)]
    await store.collection(before).put_many(old)
    await backend.close()
    store = await backend.open((PEOPLE,))
    people = store.collection(PEOPLE)
    assert await people.get("0007") == Person(user_id="0007", city="x", age=7)
    assert await people.count("by_age", (3,)) == 250
    assert await people.count("by_city", ("x",)) == 1250
    assert await people.count("by_city", ("x", 3)) == 250
    assert await people.count("by_email") == 0
    await people.put(Person(user_id="new", email="x@y", age=3))
    assert await people.count("by_age", (3,)) == 251


async def test_records_stay_when_a_spec_loses_an_index(backend: Backend) -> None:
    store = await backend.open((PEOPLE,))
    await store.collection(PEOPLE).put(Person(user_id="a", email="x@y", age=1, city="x"))
    await backend.close()
    bare = CollectionSpec("people", Person, ("user_id",))
    store = await backend.open((bare,))
    await store.collection(bare).put(Person(user_id="b", email="x@y", age=1, city="x"))
    await store.collection(bare).delete("a")
    await backend.close()
    store = await backend.open((PEOPLE,))
    assert ids(await store.collection(PEOPLE).find("by_email", ("x@y",))) == ["b"]
