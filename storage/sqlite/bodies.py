"""Bodies of entries, compressed with a trained dictionary; the exact bytes come back.

The store keeps each dictionary that a body was ever written with. A release that ships a better one
adds it at opening, and writes with the newest from then on.
"""

import sqlite3
from collections.abc import Sequence
from pathlib import Path

import zstandard

from storage.errors import StoreDamaged

LEVEL = 3
SMALLEST = 24
"""Bytes below which nothing is gained."""
MANY = 8
"""From so many bodies on it pays to compress them in one call, which has its price."""

_SHIPPED = Path(__file__).parent / "dictionaries"


def shipped_dictionary() -> bytes:
    """The newest dictionary of this release (made by `train_dictionary.py`)."""
    newest = max(_SHIPPED.glob("*.zdict"), key=lambda path: int(path.stem))
    return newest.read_bytes()


def install_dictionary(db: sqlite3.Connection) -> None:
    """Keep the dictionary of this release in the store, unless it is there."""
    db.execute("INSERT OR IGNORE INTO dictionary (content) VALUES (?)", (shipped_dictionary(),))


class Bodies:
    """Packs and unpacks for one thread: zstandard's objects are not to be shared."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._decompressors: dict[int, zstandard.ZstdDecompressor] = {}
        for number, content in db.execute("SELECT id, content FROM dictionary ORDER BY id"):
            dictionary = zstandard.ZstdCompressionDict(content)
            self._decompressors[number] = zstandard.ZstdDecompressor(
                dict_data=dictionary, format=zstandard.FORMAT_ZSTD1_MAGICLESS
            )
            self._number: int = number
        parameters = zstandard.ZstdCompressionParameters.from_level(
            LEVEL,
            format=zstandard.FORMAT_ZSTD1_MAGICLESS,
            write_content_size=True,
            write_checksum=False,
            write_dict_id=False,
        )
        self._compressor = zstandard.ZstdCompressor(dict_data=dictionary, compression_params=parameters)

    def pack(self, bodies: Sequence[bytes]) -> list[tuple[bytes, int | None]]:
        """For each, the stored bytes and the number of the dictionary, None if stored as they are."""
        packed = iter(self._compress([body for body in bodies if len(body) >= SMALLEST]))
        stored: list[tuple[bytes, int | None]] = []
        for body in bodies:
            small = next(packed) if len(body) >= SMALLEST else body
            stored.append((small, self._number) if len(small) < len(body) else (body, None))
        return stored

    def _compress(self, bodies: "list[bytes | bytearray | memoryview[int]]") -> list[bytes]:
        if len(bodies) < MANY:
            return [self._compressor.compress(body) for body in bodies]
        # Each call gives up the interpreter lock, and gets it back late when the server is busy.
        packed = self._compressor.multi_compress_to_buffer(bodies)
        return [packed[i].tobytes() for i in range(len(packed))]

    def unpack(self, stored: bytes, number: int | None) -> bytes:
        """What was packed. Raises StoreDamaged."""
        if number is None:
            return stored
        try:
            return self._decompressors[number].decompress(stored)
        except zstandard.ZstdError as error:
            raise StoreDamaged(f"A stored body is damaged: restore a backup ({error})") from error
