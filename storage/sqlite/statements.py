"""Statements for many values at once, in a few sizes only, so that SQLite's prepared ones are reused."""

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import TypeVar

T = TypeVar("T")

MAX_VALUES = 256


@cache
def placeholders(count: int) -> str:
    return ",".join("?" * count)


def padded(values: Iterable[T]) -> Iterator[list[T]]:
    """The values in lists whose length is a power of two, the last value repeated to fill: for `IN (…)`."""
    rest = list(values)
    for start in range(0, len(rest), MAX_VALUES):
        chunk = rest[start : start + MAX_VALUES]
        size = 1 << (len(chunk) - 1).bit_length()
        yield chunk + [chunk[-1]] * (size - len(chunk))


def halving(rows: Sequence[T], largest: int) -> Iterator[Sequence[T]]:
    """The rows in runs whose length is a power of two: for multi-row `VALUES`. `largest` is one too."""
    start, size = 0, largest
    while start < len(rows):
        while size > len(rows) - start:
            size >>= 1
        yield rows[start : start + size]
        start += size


@cache
def values_list(columns: int, rows: int) -> str:
    """`(?,?),(?,?)`, for an INSERT of several rows."""
    return ",".join([f"({placeholders(columns)})"] * rows)
