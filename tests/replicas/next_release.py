"""The release after this one, as far as the store goes: `python -m tests.replicas.next_release serve …`.

Its store has a higher format, one step of migration more, a field more in the records of devices, and an
index more. Everything else is this release.
"""

import sys
from typing import Any, cast

from msgspec.structs import replace

from storage import store
from storage.collection import Index
from storage.records import accounts

STEP = "made_by_the_next_release"
BY_AGE = Index("by_age", ("user_id", "created_ts"))


class Device(accounts.Device, frozen=True):
    """With what devices have from now on."""

    colour: str = "green"


def become() -> None:
    """Turn this process into one of that release; to be called before anything of the server is imported."""
    old = accounts.DEVICES
    accounts.DEVICES = replace(old, record=Device, indexes=(*old.indexes, BY_AGE))
    accounts.SPECS = tuple(accounts.DEVICES if spec is old else spec for spec in accounts.SPECS)
    accounts.Device = Device  # type: ignore[misc]
    store.FORMAT += 1
    from storage.mongo import identity, schema
    from storage.mongo.connection import Connection

    async def step(connection: Connection) -> None:
        stores = connection.database[schema.STORE]
        await stores.update_one({"_id": schema.STORE}, {"$set": {STEP: True}})

    migrations = (*schema.MIGRATIONS, step)
    identity.MIGRATIONS = migrations
    schema.migrate.__defaults__ = cast(Any, (migrations,))


if __name__ == "__main__":
    become()
    from homeserver.cli import main

    sys.exit(main())
