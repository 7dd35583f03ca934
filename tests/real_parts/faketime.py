"""A clock of its own for a process, which a test may set: libfaketime of Debian's packages.

Only the time of day is set; what measures how long something takes goes on as it does.
"""

import os
import shutil
import tempfile
from fcntl import LOCK_EX, flock
from functools import cache
from pathlib import Path

from tests.real_parts.cache import CACHE
from tests.real_parts.proxy import download, run

PACKAGE = "libfaketime"
LIBRARY = "libfaketimeMT.so.1"


class FakeClock:
    """The clock of one process, which is started with these `variables` in its environment."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.set(0)
        self.variables = {
            "LD_PRELOAD": str(library()),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, seconds: int) -> None:
        """Have it be so far ahead (or behind) from now on; the process notices within a second."""
        fresh = self._file.with_suffix(".new")
        fresh.write_text(f"{seconds:+d}s\n")
        os.replace(fresh, self._file)


@cache
def library() -> Path:
    """The library, fetched once into the cache. Raises CalledProcessError where it cannot be had."""
    folder = CACHE / PACKAGE
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{PACKAGE}.lock").open("w") as lock:
        flock(lock, LOCK_EX)  # Of two test runs at once, one installs.
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
                download([PACKAGE], Path(scratch))
                made = Path(scratch, "root")
                for package in Path(scratch).glob("*.deb"):
                    run("dpkg", "-x", str(package), str(made))
                shutil.move(made, folder)
    return next(folder.rglob(LIBRARY))
