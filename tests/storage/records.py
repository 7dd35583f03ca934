"""Record types for the tests of collections."""

from typing import Any

from storage.collection import CollectionSpec, Index, Record


class Person(Record, frozen=True):
    user_id: str
    email: str | None = None
    age: int | None = None
    city: str | None = None
    notes: dict[str, Any] = {}


class Key(Record, frozen=True):
    user_id: str
    device_id: str
    key_id: str
    order: int
    body: str = ""
    parts: tuple[tuple[str, str], ...] = ()


PEOPLE = CollectionSpec(
    "people",
    Person,
    ("user_id",),
    (
        Index("by_email", ("email",), unique=True),
        Index("by_city", ("city", "age")),
        Index("by_age", ("age",)),
    ),
)
KEYS = CollectionSpec(
    "keys", Key, ("user_id", "device_id", "key_id"), (Index("by_order", ("user_id", "device_id", "order")),)
)
SPECS = (PEOPLE, KEYS)
