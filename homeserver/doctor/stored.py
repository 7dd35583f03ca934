"""The store, as whoever has it open sees it: a running server, or the doctor where none runs."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from homeserver.clock import Clock
from homeserver.doctor.findings import Finding, fail, ok, warn
from homeserver.key_file import KeyFileError
from homeserver.server_key import NAME, matching
from storage.collection import Collection
from storage.errors import StoreError, StoreReplaced
from storage.records.cursors import CURSORS, Cursor
from storage.records.server_key import SERVER_KEY
from storage.store import Occupant, Store

SKEW_MS, TOO_MUCH_SKEW_MS = 500, 10_000
ANSWER_SECONDS = 5.0
MUCH_BEHIND = 10_000
"""Entries. Cursors are stored from time to time only: a consumer may be well ahead of its own."""


async def store_findings(
    store: Store, key_path: Path, now: Clock, newcomer: Occupant | None = None
) -> list[Finding]:
    """What is the matter with an open store, which a `newcomer` would like to claim; never raises."""
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            return [finding async for finding in _looked_at(store, key_path, now, newcomer)]
    except StoreReplaced as error:
        return [fail("store", str(error), "start this server anew; stop all of them before you restore")]
    except (StoreError, TimeoutError) as error:
        problem = str(error) or f"nothing came for {ANSWER_SECONDS:.0f} s"
        return [fail("store", f"it does not answer: {problem}", "look at the database and the way to it")]


async def _looked_at(
    store: Store, key_path: Path, now: Clock, newcomer: Occupant | None
) -> AsyncIterator[Finding]:
    info = store.info
    size = await store.size_bytes() / (1 << 20)
    shards = f"{info.shards.rooms} room and {info.shards.users} user shards"
    yield ok("store", f"of {info.server_name}, format {info.format}, {shards}, {size:.0f} MiB")
    asked = now()
    examination = await store.examine()
    for remark in examination.remarks:
        yield (fail if remark.serious else warn)("store", remark.text, remark.remedy)
    for occupant in examination.occupants:
        if newcomer is not None and not newcomer.hears_of(occupant):
            text = f"the server at {occupant.address} has it open, and one started here would not hear of it"
            yield fail(
                "store", text, "the same bus.uri and bus.topic_prefix for both; or stop that server first"
            )
    if examination.server_time is not None:
        yield _clock(examination.server_time, (asked + now()) // 2)
    yield await _key(store, key_path)
    async for finding in _cursors(store):
        yield finding


def _clock(theirs: int, ours: int) -> Finding:
    skew = abs(theirs - ours)
    text = f"the clocks of this machine and of the database are {skew} ms apart"
    if skew > TOO_MUCH_SKEW_MS:
        return fail("clock", text, "run an NTP client on both: events would carry wrong times")
    if skew > SKEW_MS:
        return warn("clock", text, "run an NTP client on both")
    return ok("clock", text)


async def _key(store: Store, path: Path) -> Finding:
    record = await store.collection(SERVER_KEY).get(NAME)
    if record is None:
        return warn("signing key", "the store knows of none yet", "the first start tells it")
    try:
        await matching(path, record)
    except KeyFileError as error:
        return fail("signing key", str(error))
    return ok("signing key", f"{record.key_id} is the one that the store knows")


async def _cursors(store: Store) -> AsyncIterator[Finding]:
    shards = (*store.info.shards.room_shards(), *store.info.shards.user_shards())
    tails = {shard: await store.log.tail(shard) for shard in shards}
    yield ok("log", f"{sum(tails.values())} entries in {len(tails)} shards")
    async for cursor in _all_cursors(store.collection(CURSORS)):
        if (behind := tails.get(cursor.shard, 0) - cursor.seq) > MUCH_BEHIND:
            text = f"{cursor.consumer} has {behind} entries of shard {cursor.shard} before it"
            yield warn("consumers", text, "it catches up while a server runs; if not, look into the logs")


async def _all_cursors(cursors: Collection[Cursor]) -> AsyncIterator[Cursor]:
    name: str | None = None
    while first := await cursors.find("key", after=name, limit=1):
        name = first[0].consumer
        shard: int | None = None
        while page := await cursors.find("key", (name,), after=shard):
            for cursor in page:
                yield cursor
            shard = page[-1].shard
