"""Synapse for comparison: installed from its package into a cache, one process, settings that favour it.

Favourable means: no rate limits, cheap password hashes, large caches, little logging, no statistics,
jemalloc where the system has it. Presence is on.
"""

import asyncio
import ctypes.util
import json
import os
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench.server import HOST, Server, ServerFailed

VERSION = "1.163.2"
_LIMITS = (
    "rc_message",
    "rc_registration",
    "rc_registration_token_validity",
    "rc_admin_redaction",
    "rc_joins_per_room",
    "rc_3pid_validation",
    "rc_third_party_invite",
    "rc_room_creation",
    "rc_reports",
    "rc_user_directory",
    "rc_media_create",
    "rc_presence",
)
_NESTED_LIMITS = {
    "rc_login": ("address", "account", "failed_attempts"),
    "rc_joins": ("local", "remote"),
    "rc_invites": ("per_room", "per_user", "per_issuer"),
}
_DATABASE_SIZE = (
    "import psycopg2, sys; cursor = psycopg2.connect(sys.argv[1]).cursor(); "
    "cursor.execute('SELECT pg_database_size(current_database())'); print(cursor.fetchone()[0])"
)
_HUGE = {"per_second": 1_000_000, "burst_count": 1_000_000}


async def _run(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output = (await process.communicate())[0].decode(errors="replace")
    if process.returncode:
        raise ServerFailed(f"{' '.join(command[:4])} … failed:\n{output[-2000:]}")
    return output


async def install(cache: Path, *, postgres: bool) -> Path:
    """The Python of an environment with Synapse in it, made when it is not there. Raises ServerFailed."""
    home = cache / f"synapse-{VERSION}{'-postgres' if postgres else ''}"
    python = home / "bin" / "python"
    ready = home / "ready"
    if not ready.exists():
        print(f"installing Synapse {VERSION} (once) …", file=sys.stderr)
        await _run(sys.executable, "-m", "venv", "--clear", str(home))
        extras = ["psycopg2-binary"] if postgres else []
        await _run(str(python), "-m", "pip", "install", "-q", f"matrix-synapse=={VERSION}", *extras)
        ready.touch()
    return python


class Postgres(NamedTuple):
    """A database that runs already: its URL, and its first process where CPU and memory are to be added."""

    url: str
    pid: int | None


class Synapse(Server):
    name = "Synapse"

    def __init__(self, folder: Path, cores: Collection[int], python: Path, postgres: Postgres | None) -> None:
        super().__init__(folder, cores)
        self._python = python
        self._postgres = postgres
        self._jemalloc = ctypes.util.find_library("jemalloc")
        allocator = "jemalloc" if self._jemalloc else "no jemalloc on this system"
        self.details = f"Synapse {VERSION}, {'PostgreSQL' if postgres else 'SQLite'}, {allocator}"
        (folder / "homeserver.yaml").write_text(json.dumps(self._config()))  # JSON is YAML
        (folder / "log.yaml").write_text(json.dumps(self._log_config()))
        (folder / "signing.key").write_text(f"ed25519 a_bench {'A' * 43}\n")

    def command(self) -> Sequence[str]:
        config = str(self.folder / "homeserver.yaml")
        return [str(self._python), "-m", "synapse.app.homeserver", "-c", config]

    def disk_bytes(self) -> int:
        if self._postgres is None:
            return super().disk_bytes()
        command = [str(self._python), "-c", _DATABASE_SIZE, self._postgres.url]
        return int(subprocess.run(command, check=True, capture_output=True, timeout=60).stdout)

    @property
    def beside(self) -> list[int]:
        return [self._postgres.pid] if self._postgres and self._postgres.pid else []

    def environment(self) -> Mapping[str, str]:
        return dict(os.environ) | ({"LD_PRELOAD": self._jemalloc} if self._jemalloc else {})

    def _config(self) -> dict[str, Any]:
        listener = {
            "port": self.port,
            "bind_addresses": [HOST],
            "type": "http",
            "tls": False,
            "resources": [{"names": ["client", "federation"], "compress": False}],
        }
        limits: dict[str, Any] = dict.fromkeys(_LIMITS, _HUGE)
        limits["rc_presence"] = {"per_user": _HUGE}
        limits |= {name: dict.fromkeys(kinds, _HUGE) for name, kinds in _NESTED_LIMITS.items()}
        return limits | {
            "server_name": "synapse.test",
            "public_baseurl": f"http://{HOST}:{self.port}/",
            "listeners": [listener],
            "database": self._database(),
            "log_config": str(self.folder / "log.yaml"),
            "media_store_path": str(self.folder / "media"),
            "signing_key_path": str(self.folder / "signing.key"),
            "trusted_key_servers": [],
            "federation_domain_whitelist": [],
            "report_stats": False,
            "enable_registration": True,
            "enable_registration_without_verification": True,
            "macaroon_secret_key": "bench",
            "form_secret": "bench",
            "bcrypt_rounds": 4,
            "presence": {"enabled": True},
            "event_cache_size": "50K",
            "caches": {"global_factor": 4.0, "expire_caches": False},
        }

    def _database(self) -> dict[str, Any]:
        if self._postgres is None:
            return {"name": "sqlite3", "args": {"database": str(self.folder / "data" / "homeserver.db")}}
        return {"name": "psycopg2", "args": {"dsn": self._postgres.url, "cp_min": 5, "cp_max": 10}}

    def _log_config(self) -> dict[str, Any]:
        handler = {"class": "logging.FileHandler", "filename": str(self.folder / "homeserver.log")}
        return {
            "version": 1,
            "handlers": {"file": handler},
            "root": {"level": "WARNING", "handlers": ["file"]},
            "disable_existing_loggers": False,
        }
