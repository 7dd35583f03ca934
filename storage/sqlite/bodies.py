"""Bodies of entries, compressed with a trained dictionary; the exact bytes come back.

The store keeps each dictionary that a body was ever written with. A release that ships a better one
adds it at opening, and writes with the newest from then on.
"""

import sqlite3
from pathlib import Path

import zstandard

LEVEL = 3
SMALLEST = 24
"""Bytes below which nothing is gained."""
MAX_BODY_BYTES = 16 * 1024 * 1024
"""What one stored body may inflate to: a damaged file must not take the memory."""

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
                dict_data=dictionary, format=zstandard.FORMAT_ZSTD1_MAGICLESS, max_window_size=1 << 27
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

    def pack(self, body: bytes) -> tuple[bytes, int | None]:
        """The stored bytes, and the number of the dictionary or None if they are stored as they are."""
        if len(body) >= SMALLEST:
            packed = self._compressor.compress(body)
            if len(packed) < len(body):
                return packed, self._number
        return body, None

    def unpack(self, stored: bytes, number: int | None) -> bytes:
        if number is None:
            return stored
        return self._decompressors[number].decompress(stored, max_output_size=MAX_BODY_BYTES)
