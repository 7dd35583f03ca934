"""Removes receipts, account data and copies of device lists that newer ones took the place of.

A client that comes back is told the newest value under each key, whatever came between, and nothing reads
the values before it; so they may go at once. They go a minute later, together: whoever is just reading
a room or a user by what was current has long finished then, and no request waits for it.

What is removed is all that lies below the newest value that was noted. Notes that are lost in a crash, or
when there are too many, are made good by the next value under the same key.
"""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

import structlog

from homeserver.e2ee.identities import COPY
from storage.errors import StoreError
from storage.log import Entry, Kind, Log

log = structlog.get_logger(__name__)

REMOVE_EVERY_SECONDS = 60.0
MAX_NOTED = 50_000
PAGE = 500


class _Key(NamedTuple):
    shard: int
    stream: str
    kind: Kind
    type: str
    key: str


class Superseded:
    """The handler behind the consumers "superseded"."""

    def __init__(self, log_port: Log) -> None:
        self._log = log_port
        self._noted: dict[_Key, int] = {}
        """The number of the newest entry under each key."""
        self._due: dict[_Key, int] = {}
        """What was noted in the interval before."""

    @staticmethod
    def wants(entry: Entry) -> bool:
        return entry.kind in (Kind.RECEIPT, Kind.ACCOUNT_DATA) or (
            entry.kind is Kind.DEVICE_LIST and entry.type == COPY
        )

    async def handle(self, shard: int, entry: Entry) -> None:
        """Note that what is older under the entry's key is no longer needed."""
        if entry.type is not None and entry.key is not None and len(self._noted) < MAX_NOTED:
            self._noted[_Key(shard, entry.stream, entry.kind, entry.type, entry.key)] = entry.seq

    async def remove(self) -> None:
        """Remove what was superseded before the last time."""
        due, self._due, self._noted = self._due, self._noted, {}
        by_shard: dict[int, list[int]] = {}
        for key, newest in due.items():
            seqs = by_shard.setdefault(key.shard, [])
            more = True
            while more:
                older = await self._older(key, newest)
                seqs += older
                if more := len(older) == PAGE:
                    newest = older[0]
                if len(seqs) >= PAGE:
                    await self._log.remove(key.shard, seqs)
                    seqs.clear()
        for shard, seqs in by_shard.items():
            if seqs:
                await self._log.remove(shard, seqs)

    async def _older(self, key: _Key, newest: int) -> Sequence[int]:
        """Numbers of entries under a key below one of them, ascending."""
        entries = await self._log.keyed(
            key.shard,
            key.stream,
            kind=key.kind,
            type=key.type,
            key=key.key,
            before=newest,
            newest_first=True,
            limit=PAGE,
        )
        return [entry.seq for entry in reversed(entries)]

    async def keep_removing(self) -> None:
        """Remove every minute, until cancelled."""
        while True:
            await asyncio.sleep(REMOVE_EVERY_SECONDS)
            try:
                await self.remove()
            except StoreError as error:
                log.warning("superseded entries are not removed", error=str(error))
