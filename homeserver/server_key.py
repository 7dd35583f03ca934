"""One key signs in the server's name, whichever replica does it, and the store knows which one that is.

The first start makes the key file and has the store remember the public half. From then on a replica
whose file holds another key, or none, does not start: what it signed would be a forgery to everybody else.
An administrator who wants another key says so (`replace`); the old one is remembered as retired.
"""

import asyncio
from pathlib import Path

from homeserver.clock import Clock
from homeserver.key_file import KeyFileError, load_or_create
from homeserver.protocol.signing import SigningKey
from storage.collection import Collection
from storage.errors import AlreadyExists
from storage.records.server_key import RetiredKey, ServerKey

NAME = ""


async def establish(path: Path, known: Collection[ServerKey]) -> SigningKey:
    """The server's key, which the file at `path` must hold; at the very first start it is made.

    Raises KeyFileError, with the file and the remedy, and StoreError.
    """
    record = await known.get(NAME)
    if record is None:
        key = load_or_create(path)
        try:
            await known.insert(_record(key, ()))
            return key
        except AlreadyExists:  # Another replica's first start came in between.
            record = await known.get(NAME)
            assert record is not None, "it is never deleted"
    return await matching(path, record)


async def retired_keys(known: Collection[ServerKey]) -> tuple[RetiredKey, ...]:
    """The keys that were replaced; others still check old events by them."""
    record = await known.get(NAME)
    return record.retired if record is not None else ()


async def matching(path: Path, record: ServerKey) -> SigningKey:
    """The key in the file at `path`, which must be the one of the record.

    Raises KeyFileError, with the file and the remedy.
    """
    if not await asyncio.to_thread(path.exists):
        raise KeyFileError(
            f"there is no signing key at {path}, and this server has one, {record.key_id}: "
            "copy signing.key of another replica there, or restore it from a backup "
            "(if it is lost: weft replace-signing-key)"
        )
    key = load_or_create(path)
    if not _is(record, key):
        raise KeyFileError(
            f"the signing key {path} is {key.key_id}, but this server signs with {_named(record, key)}: "
            "copy signing.key of another replica there (to change the server's key: weft replace-signing-key)"
        )
    return key


async def replace(path: Path, known: Collection[ServerKey], now: Clock) -> SigningKey:
    """Make the key in the file at `path`, or a new one if there is no file, the server's key from now on.

    No replica may be running: it would go on signing with the old one. Raises KeyFileError and StoreError.
    """
    record = await known.get(NAME)
    if record is None:
        return await establish(path, known)
    key = load_or_create(path)
    if _is(record, key):
        raise KeyFileError(
            f"{path} still holds {key.key_id}, with which the server signs: "
            "move it away (and keep it), and a new one is made; or put the new one in its place"
        )
    before = (*record.retired, RetiredKey(record.key_id, record.verify_key, now()))
    if any(old.key_id == key.key_id and old.verify_key != key.verify_key_base64 for old in before):
        raise KeyFileError(
            f"the key in {path} has the name of an older one, {key.key_id}: "
            "a new key needs a version of its own, the second word of the file"
        )
    retired = tuple(old for old in before if old.key_id != key.key_id)
    if not await known.replace_if(record, _record(key, retired)):
        raise KeyFileError("the server's key was replaced a moment ago: look who did it, then try again")
    return key


def _record(key: SigningKey, retired: tuple[RetiredKey, ...]) -> ServerKey:
    return ServerKey(name=NAME, key_id=key.key_id, verify_key=key.verify_key_base64, retired=retired)


def _is(record: ServerKey, key: SigningKey) -> bool:
    return (record.key_id, record.verify_key) == (key.key_id, key.verify_key_base64)


def _named(record: ServerKey, key: SigningKey) -> str:
    return record.key_id if record.key_id != key.key_id else "another one of that name"
