"""Backups of message keys, sealed by the client (spec: client-server "Server-side key backups").

The keys of a backup are many records, its etag and count are in one. A change takes three steps:
the backup's record is marked as being changed, the keys are written, the mark goes and the new etag
and count come. Everybody who changes a backup finds or sets the mark by compare-and-set, so changes
come one after another. A mark that has outlived its time was left by a crash: the next one to see
it counts the keys and gives a new etag.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple
from weakref import WeakValueDictionary

import msgspec
import orjson
from msgspec.structs import replace

from homeserver.clock import Clock
from homeserver.e2ee.key_objects import too_many
from homeserver.errors import MatrixError, invalid_param, not_found, too_large, unavailable
from homeserver.protocol.identifiers import check_room_id
from homeserver.protocol.json_types import JsonObject
from storage.collection import Collection
from storage.errors import StoreError
from storage.records.keys import BackupKey, BackupVersion, BackupVersions

CURVE25519 = "m.megolm_backup.v1.curve25519-aes-sha2"

CHANGE_MS = 10_000
"""A change that has not ended by then never will."""
WAIT_SECONDS = 0.1
WAITS = 20
"""How often a change waits for one by another replica."""
PAGE = 1_000

MAX_BACKUPS = 20
"""Of one user at a time; clients keep one."""
MAX_KEYS = 500_000
"""In one backup."""
MAX_AUTH_DATA_BYTES = 64 * 1024
MAX_ALGORITHM_BYTES = 255
MAX_SESSION_ID_BYTES = 255
MAX_SESSION_DATA_BYTES = 8 * 1024
MAX_INDEX = 2**53 - 1


class SessionKey(msgspec.Struct):
    """A message key as clients write it."""

    first_message_index: int
    forwarded_count: int
    is_verified: bool
    session_data: JsonObject


class Contents(NamedTuple):
    """What a backup holds, for clients to compare: equal etags mean equal keys."""

    etag: str
    keys: int


NewKeys = Mapping[str, Mapping[str, SessionKey]]
"""Room → session → key."""


class KeyBackup:
    """The backups of local users."""

    def __init__(
        self,
        newest: Collection[BackupVersions],
        backups: Collection[BackupVersion],
        keys: Collection[BackupKey],
        now: Clock,
    ) -> None:
        self._newest = newest
        self._backups = backups
        self._keys = keys
        self._now = now
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    # Versions

    async def create(self, user_id: str, algorithm: str, auth_data: JsonObject) -> str:
        """A new backup, from now on the current one; its version."""
        if not algorithm or len(algorithm.encode()) > MAX_ALGORITHM_BYTES:
            raise invalid_param("algorithm: 1 to 255 bytes")
        sealed = _auth_data(algorithm, auth_data)
        if len(await self._backups.find("key", (user_id,), limit=MAX_BACKUPS)) == MAX_BACKUPS:
            raise too_many(f"You may have {MAX_BACKUPS} backups at most: delete one")
        version = await self._next_version(user_id)
        await self._backups.insert(
            BackupVersion(user_id=user_id, version=version, algorithm=algorithm, auth_data=sealed)
        )
        return str(version)

    async def _next_version(self, user_id: str) -> int:
        while True:
            known = await self._newest.get(user_id)
            newest = known.newest if known is not None else 0
            following = BackupVersions(user_id=user_id, newest=newest + 1)
            if await self._newest.replace_if(known, following):
                return following.newest

    async def info(self, user_id: str, version: str | None = None) -> JsonObject:
        """A backup's description, of the current one by default. Raises 404."""
        backup = await self._recounted(await self._backup(user_id, version))
        return {
            "algorithm": backup.algorithm,
            "auth_data": orjson.loads(backup.auth_data),
            "count": backup.count,
            "etag": str(backup.etag),
            "version": str(backup.version),
        }

    async def update(self, user_id: str, version: str, algorithm: str, auth_data: JsonObject) -> None:
        """Replace the algorithm's data. Raises 404, 400 when the algorithm is another one."""
        sealed = _auth_data(algorithm, auth_data)
        async with self._turn(user_id):
            while True:
                backup = await self._unmarked(user_id, version)
                if algorithm != backup.algorithm:
                    raise invalid_param("The algorithm does not match the backup's")
                if await self._backups.replace_if(backup, replace(backup, auth_data=sealed)):
                    return

    async def delete(self, user_id: str, version: str) -> None:
        """Delete a backup with its keys; nothing for one that is deleted. Raises 404 if it never was."""
        number = _number(version)
        newest = await self._newest.get(user_id)
        if newest is None or number > newest.newest:
            raise _unknown_backup()
        async with self._turn(user_id):
            await self._backups.delete(user_id, number)
            await self._keys.delete_where("key", (user_id, number))

    async def delete_all(self, user_id: str) -> None:
        """Delete everything of a user who is gone."""
        async with self._turn(user_id):
            await self._backups.delete_where("key", (user_id,))
            await self._keys.delete_where("key", (user_id,))

    async def _backup(self, user_id: str, version: str | None) -> BackupVersion:
        """Raises 404."""
        if version is None:
            backup = await self._current(user_id)
        else:
            backup = await self._backups.get(user_id, _number(version))
        if backup is None:
            raise _unknown_backup()
        return backup

    async def _current(self, user_id: str) -> BackupVersion | None:
        found = await self._backups.find("key", (user_id,), newest_first=True, limit=1)
        return found[0] if found else None

    # Reading

    async def key(self, user_id: str, version: str, room_id: str, session_id: str) -> bytes:
        """One key, as JSON. Raises 404."""
        number = (await self._backup(user_id, version)).version
        key = await self._keys.get(user_id, number, room_id, session_id)
        if key is None:
            raise not_found("No such key in the backup")
        return _key_json(key)

    async def keys(self, user_id: str, version: str, room_id: str | None = None) -> AsyncIterator[bytes]:
        """The keys of a backup or of one of its rooms, as JSON in pieces: they may be many. Raises 404."""
        number = (await self._backup(user_id, version)).version
        return self._all(user_id, number) if room_id is None else self._room(user_id, number, room_id)

    async def _all(self, user_id: str, version: int) -> AsyncIterator[bytes]:
        yield b'{"rooms":{'
        room_id: str | None = None
        while found := await self._keys.find("key", (user_id, version), after=room_id, limit=1):
            comma = b"," if room_id is not None else b""
            room_id = found[0].room_id
            yield comma + orjson.dumps(room_id) + b":"
            async for piece in self._room(user_id, version, room_id):
                yield piece
        yield b"}}"

    async def _room(self, user_id: str, version: int, room_id: str) -> AsyncIterator[bytes]:
        under = (user_id, version, room_id)
        yield b'{"sessions":{'
        after: str | None = None
        while page := await self._keys.find("key", under, after=after, limit=PAGE):
            comma = b"," if after is not None else b""
            after = page[-1].session_id
            yield comma + b",".join(orjson.dumps(key.session_id) + b":" + _key_json(key) for key in page)
        yield b"}}"

    # Changing

    async def store(self, user_id: str, version: str, keys: NewKeys) -> Contents:
        """Add keys; of two for one session the better one stays.

        Raises 403 M_WRONG_ROOM_KEYS_VERSION unless the backup is the current one, 404, and 400 for
        keys beyond the limits; nothing is stored then.
        """
        number = _number(version)
        new = [
            _record(user_id, number, room_id, session_id, key)
            for room_id, of_room in keys.items()
            for session_id, key in of_room.items()
        ]

        async def plan(backup: BackupVersion) -> _Plan | None:
            current = await self._current(user_id)
            if current is not None and current.version != number:
                raise _wrong_version(current.version)
            ids = [(user_id, number, key.room_id, key.session_id) for key in new]
            present = {(key.room_id, key.session_id): key for key in await self._keys.get_many(ids)}
            better = [key for key in new if _is_better(key, present.get((key.room_id, key.session_id)))]
            added = sum((key.room_id, key.session_id) not in present for key in better)
            if backup.count + added > MAX_KEYS:
                raise too_many(f"A backup may have {MAX_KEYS} keys at most")
            return _Plan(lambda: self._keys.put_many(better), added) if better else None

        return await self._change(user_id, version, plan)

    async def remove(
        self, user_id: str, version: str, room_id: str | None = None, session_id: str | None = None
    ) -> Contents:
        """Delete all keys of a backup, those of a room, or one. Raises 404 for an unknown backup."""
        under: list[str | int] = [user_id, _number(version)]
        under.extend(part for part in (room_id, session_id) if part is not None)

        async def plan(backup: BackupVersion) -> _Plan | None:
            removed = await self._keys.count("key", under)
            return _Plan(lambda: self._keys.delete_where("key", under), -removed) if removed else None

        return await self._change(user_id, version, plan)

    async def _change(
        self, user_id: str, version: str, plan: Callable[[BackupVersion], Awaitable["_Plan | None"]]
    ) -> Contents:
        async with self._turn(user_id):
            while True:
                backup = await self._unmarked(user_id, version)
                planned = await plan(backup)
                if planned is None:
                    return Contents(str(backup.etag), backup.count)
                marked = replace(backup, changing_until=self._now() + CHANGE_MS)
                if not await self._backups.replace_if(backup, marked):
                    continue
                try:
                    await planned.write()
                except StoreError:
                    with suppress(StoreError):
                        await self._backups.replace_if(marked, replace(marked, changing_until=0))
                    raise
                count = backup.count + planned.added
                done = replace(marked, changing_until=None, etag=backup.etag + 1, count=count)
                if await self._backups.replace_if(marked, done):
                    return Contents(str(done.etag), done.count)

    async def _unmarked(self, user_id: str, version: str) -> BackupVersion:
        """A backup that nobody is changing. Raises 404, 503 when another replica does not come to an end."""
        for _ in range(WAITS):
            backup = await self._recounted(await self._backup(user_id, version))
            if backup.changing_until is None:
                return backup
            await asyncio.sleep(WAIT_SECONDS)
        raise unavailable("The backup is being changed")

    async def _recounted(self, backup: BackupVersion) -> BackupVersion:
        """The backup, with its keys counted if whoever was changing it has died."""
        if backup.changing_until is None or backup.changing_until > self._now():
            return backup
        count = await self._keys.count("key", (backup.user_id, backup.version))
        counted = replace(backup, changing_until=None, etag=backup.etag + 1, count=count)
        if await self._backups.replace_if(backup, counted):
            return counted
        return await self._backup(backup.user_id, str(backup.version))

    @asynccontextmanager
    async def _turn(self, user_id: str) -> AsyncIterator[None]:
        """In this process changes of one user's backups wait for one another."""
        lock = self._turns.get(user_id)
        if lock is None:
            lock = self._turns[user_id] = asyncio.Lock()
        async with lock:
            yield


class _Plan(NamedTuple):
    """What to write, and how many more keys there are then."""

    write: Callable[[], Awaitable[object]]
    added: int


def _number(version: str) -> int:
    """Raises 404 for what no version looks like."""
    number = int(version) if version.isascii() and version.isdigit() and len(version) <= 15 else 0
    if number < 1:
        raise _unknown_backup()
    return number


def _unknown_backup() -> MatrixError:
    return not_found("Unknown backup version")


def _wrong_version(current: int) -> MatrixError:
    return MatrixError(
        403, "M_WRONG_ROOM_KEYS_VERSION", "This is not the current backup", current_version=str(current)
    )


def _auth_data(algorithm: str, auth_data: JsonObject) -> str:
    """Checked as far as the server understands it, as JSON. Raises 400."""
    if algorithm == CURVE25519:
        if not isinstance(auth_data.get("public_key"), str):
            raise invalid_param("auth_data: public_key must be a string")
        if auth_data.get("signatures", {}) is None:
            # So clients (mautrix-go) write that nobody signed it; others expect an object, or nothing.
            auth_data = {name: value for name, value in auth_data.items() if name != "signatures"}
        if not isinstance(auth_data.get("signatures", {}), dict):
            raise invalid_param("auth_data: signatures must be an object")
    json = orjson.dumps(auth_data)
    if len(json) > MAX_AUTH_DATA_BYTES:
        raise too_large(f"auth_data may have {MAX_AUTH_DATA_BYTES} bytes at most")
    return json.decode()


def _record(user_id: str, version: int, room_id: str, session_id: str, key: SessionKey) -> BackupKey:
    """Raises 400 for what does not fit."""
    check_room_id(room_id)
    if not session_id or len(session_id.encode()) > MAX_SESSION_ID_BYTES:
        raise invalid_param(f"A session id has 1 to {MAX_SESSION_ID_BYTES} bytes")
    if not (0 <= key.first_message_index <= MAX_INDEX and 0 <= key.forwarded_count <= MAX_INDEX):
        raise invalid_param("first_message_index and forwarded_count must be numbers from 0 on")
    session_data = orjson.dumps(key.session_data)
    if len(session_data) > MAX_SESSION_DATA_BYTES:
        raise too_large(f"session_data may have {MAX_SESSION_DATA_BYTES} bytes at most")
    return BackupKey(
        user_id=user_id,
        version=version,
        room_id=room_id,
        session_id=session_id,
        first_message_index=key.first_message_index,
        forwarded_count=key.forwarded_count,
        is_verified=key.is_verified,
        session_data=session_data.decode(),
    )


def _is_better(new: BackupKey, old: BackupKey | None) -> bool:
    """spec: "the server will choose to either keep the existing key or replace it" """
    if old is None:
        return True
    if new.is_verified != old.is_verified:
        return new.is_verified
    return (new.first_message_index, new.forwarded_count) < (old.first_message_index, old.forwarded_count)


def _key_json(key: BackupKey) -> bytes:
    return b'{"first_message_index":%d,"forwarded_count":%d,"is_verified":%b,"session_data":%b}' % (
        key.first_message_index,
        key.forwarded_count,
        b"true" if key.is_verified else b"false",
        key.session_data.encode(),
    )
