"""Opening the store that a configuration names, with all the collections there are."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from homeserver.clock import system_clock
from homeserver.config import Config
from homeserver.protocol.signing import SigningKey
from homeserver.server_key import replace
from storage.collection import CollectionSpec
from storage.errors import StoreRefused, StoreUnavailable
from storage.log import ShardMap
from storage.records import accounts as account_records
from storage.records import cursors as cursor_records
from storage.records import delayed_events as delayed_event_records
from storage.records import destinations as destination_records
from storage.records import keys as key_records
from storage.records import media as media_records
from storage.records import presence as presence_records
from storage.records import profiles as profile_records
from storage.records import push as push_records
from storage.records import received_messages as received_message_records
from storage.records import remote_keys as remote_key_records
from storage.records import rooms as room_records
from storage.records import server_key as server_key_records
from storage.records import side_events as side_event_records
from storage.records import sliding_sync as sliding_sync_records
from storage.records import staged_events as staged_event_records
from storage.records import user_directory as user_directory_records
from storage.sqlite import open_store as open_sqlite
from storage.store import Occupant, OpenStore, Store

SPECS: Sequence[CollectionSpec[Any]] = (
    *account_records.SPECS,
    *presence_records.SPECS,
    *push_records.SPECS,
    *profile_records.SPECS,
    *room_records.SPECS,
    *user_directory_records.SPECS,
    *media_records.SPECS,
    *key_records.SPECS,
    *cursor_records.SPECS,
    *server_key_records.SPECS,
    *destination_records.SPECS,
    *remote_key_records.SPECS,
    *side_event_records.SPECS,
    *staged_event_records.SPECS,
    *delayed_event_records.SPECS,
    *received_message_records.SPECS,
    *sliding_sync_records.SPECS,
)


async def opened_store(config: Config) -> Store:
    """The store that the configuration names. Raises StoreRefused and StoreUnavailable."""
    try:
        await asyncio.to_thread(Path(config.data_dir).mkdir, mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StoreUnavailable(
            f"data_dir: cannot make {config.data_dir}: {error.strerror}; "
            "make it yourself, and give it to the server's user"
        ) from error
    shards = ShardMap(config.storage.room_shards, config.storage.user_shards)
    open_store = backend_of(config.storage.uri)
    return await open_store(config.storage.uri, server_name=config.server_name, shards=shards, specs=SPECS)


def backend_of(uri: str) -> OpenStore:
    """What opens the store at a URI. Raises StoreRefused when nothing does."""
    scheme = uri.partition(":")[0]
    if scheme == "sqlite":
        return open_sqlite
    if scheme in ("mongodb", "mongodb+srv"):
        # The library need not be there otherwise.
        from storage.mongo import open_store as open_mongo

        return open_mongo
    raise StoreRefused(
        f"storage.uri begins with {scheme}: write sqlite:///<path> or mongodb://<host>/<database>"
    )


def mongo_shard_plan() -> list[tuple[str, tuple[str, ...]]]:
    """The collections of a store in MongoDB with the fields by which a cluster is to divide them."""
    from storage.mongo import shard_plan

    return list(shard_plan(SPECS))


async def begin_epoch(config: Config) -> None:
    """Have the store, which was restored from a backup and no server has open, count as another one."""
    store = await opened_store(config)
    try:
        await store.claim(Occupant("`weft restored`", ""))
        await store.begin_epoch()
    finally:
        await store.close()


async def replace_signing_key(config: Config) -> SigningKey:
    """Have the server, of which no replica runs, sign with another key; see `homeserver.server_key`."""
    store = await opened_store(config)
    try:
        return await replace(
            config.signing_key_path, store.collection(server_key_records.SERVER_KEY), system_clock
        )
    finally:
        await store.close()
