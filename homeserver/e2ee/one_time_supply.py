"""What an upload adds to a device's supply of one-time keys, and which key a claim has got.

Functions of values.
"""

import struct
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import NamedTuple
from zlib import crc32

from msgspec.structs import replace

from homeserver.e2ee.key_objects import MAX_ONE_TIME_KEYS, NamedKey, too_many
from storage.records.keys import OneTimeBatch, OneTimeSupply

BATCH_BYTES = 16 * 1024
"""Of keys in a batch. A usual upload of 50 keys has 12,000; each claim reads a batch."""
_CHECKSUM_BYTES = 8
_BATCH_ID_BYTES = 6


class Addition(NamedTuple):
    """What an upload makes of a supply."""

    supply: OneTimeSupply
    batches: list[OneTimeBatch]
    """The new ones."""
    ended: list[int]
    """Those of which all keys were claimed; the supply speaks of them no more."""
    suspects: list[tuple[NamedKey, int]]
    """New keys whose id an unclaimed key seems to have, by its checksum, and that key's number."""


def addition(supply: OneTimeSupply, keys: Iterable[NamedKey]) -> Addition | None:
    """What the keys add that are not among the recent ones; None if all are. Raises 400 for too many."""
    recent = _unpacked(supply.recent)
    known = set(recent)
    numbers: dict[int, int] | None = None
    new: list[NamedKey] = []
    checksums: list[int] = []
    suspects: list[tuple[NamedKey, int]] = []
    for key in keys:
        checksum_of_id = crc32(key.key_id.encode())
        checksum = checksum_of_id << 32 | crc32(key.json)
        if checksum in known:
            continue
        if numbers is None:
            numbers = {of_key >> 32: n for n, of_key in enumerate(recent, supply.uploaded - len(recent))}
        number = numbers.get(checksum_of_id, -1)
        if number >= supply.claimed:
            suspects.append((key, number))
        new.append(key)
        checksums.append(checksum)
    if not new:
        return None
    uploaded = supply.uploaded + len(new)
    if uploaded - supply.claimed > MAX_ONE_TIME_KEYS:
        raise too_many(f"A device may have {MAX_ONE_TIME_KEYS} unclaimed one-time keys at most")
    batches, ends = _batches(supply, new, checksums)
    going_on = tuple(of_batch for of_batch in supply.batches if of_batch[1] > supply.claimed)
    added = replace(
        supply,
        uploaded=uploaded,
        batches=(*going_on, *ends),
        recent=_packed([*recent, *checksums][-MAX_ONE_TIME_KEYS:]),
    )
    listed = {batch for batch, _ in added.batches}
    ended = [batch for batch, _ in supply.batches if batch not in listed]
    return Addition(added, batches, ended, suspects)


def batch_with(supply: OneTimeSupply, number: int) -> tuple[int, int]:
    """Where an unclaimed key lies: the batch, and its place in it, counted from the end (-1 is the last)."""
    batch, end = next(of_batch for of_batch in supply.batches if of_batch[1] > number)
    return batch, number - end


def _batches(
    supply: OneTimeSupply, keys: Sequence[NamedKey], checksums: Sequence[int]
) -> tuple[list[OneTimeBatch], list[tuple[int, int]]]:
    """New keys as they are stored, and the supply's entries of them."""
    batches: list[OneTimeBatch] = []
    ends: list[tuple[int, int]] = []
    start = size = 0
    for end, key in enumerate(keys, start=1):
        size += len(key.json)
        if size < BATCH_BYTES and end < len(keys):
            continue
        digest = blake2b(_packed(checksums[start:end]), digest_size=_BATCH_ID_BYTES).digest()
        batch = OneTimeBatch(
            user_id=supply.user_id,
            device_id=supply.device_id,
            algorithm=supply.algorithm,
            batch=int.from_bytes(digest),
            keys=tuple((key.key_id, key.json.decode()) for key in keys[start:end]),
        )
        batches.append(batch)
        ends.append((batch.batch, supply.uploaded + end))
        start, size = end, 0
    return batches, ends


def _packed(checksums: Sequence[int]) -> bytes:
    return struct.pack(f">{len(checksums)}Q", *checksums)


def _unpacked(recent: bytes) -> tuple[int, ...]:
    return struct.unpack(f">{len(recent) // _CHECKSUM_BYTES}Q", recent)
