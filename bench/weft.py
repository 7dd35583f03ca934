"""Weft as it is in this tree, in development mode: open registration, no rate limits, cheap hashes."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.server import HOST, Server

TREE = Path(__file__).resolve().parent.parent


class Weft(Server):
    name = "Weft"

    details = "Weft of this tree, SQLite, in-process bus"

    def command(self) -> Sequence[str]:
        return [sys.executable, "-m", "homeserver", "serve", "--dev"]

    def environment(self) -> Mapping[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("WEFT_")}
        return inherited | {
            "PYTHONPATH": str(TREE),
            "WEFT_SERVER_NAME": "weft.test",
            "WEFT_LISTEN": f"{HOST}:{self.port}",
            "WEFT_DATA_DIR": str(self.folder / "data"),
            "WEFT_LOG_LEVEL": "warning",
        }
