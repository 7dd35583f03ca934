"""Secrets that the server hands out: how they are made, kept and forgotten."""

import hashlib
import secrets
from typing import TypeVar

from storage.collection import Collection
from storage.records.accounts import Expiring

FORGOTTEN_AT_ONCE = 20

E = TypeVar("E", bound=Expiring)


def new_token() -> str:
    return "weft_" + secrets.token_urlsafe(32)


def new_device_id() -> str:
    return "".join(secrets.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(10))


def digest_of(token: str) -> str:
    """What is kept of a secret: the hex SHA-256."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


async def keep_until_expiry(collection: Collection[E], record: E, now: int) -> None:
    """Insert a record, and delete some that have expired: what is there is what was made of late."""
    for expired in await collection.find("by_expiry", before=now + 1, limit=FORGOTTEN_AT_ONCE):
        await collection.delete_where("by_expiry", (expired.expires_ts,))
    await collection.insert(record)
