"""A file that can be shown, with what was said of it by whoever shared it: the words of strangers."""

from pathlib import Path
from typing import NamedTuple

from homeserver.media.files import MediaFiles

MAX_NAME = 255
MAX_TYPE = 255
UNKNOWN_TYPE = "application/octet-stream"


class MediaFile(NamedTuple):
    """Content that is there."""

    files: MediaFiles
    """Where it lies, under its `digest`."""
    digest: str
    content_type: str
    filename: str | None

    @property
    def path(self) -> Path:
        return self.files.path(self.digest)


def kept_type(said: str | None) -> str:
    """The content type that is kept of what was said."""
    return _bounded(said, MAX_TYPE) or UNKNOWN_TYPE


def kept_name(said: str | None) -> str | None:
    """The file name that is kept of what was said."""
    return _bounded(said, MAX_NAME)


def _bounded(text: str | None, most: int) -> str | None:
    """Text that is kept as it came, if it is not absurdly long; control characters never pass."""
    if text is None or not text:
        return None
    return "".join(c for c in text if c.isprintable())[:most] or None
