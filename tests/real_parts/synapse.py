"""A real Synapse for the tests, installed by package name, speaking TLS on a loopback address of its own."""

import json
from pathlib import Path
from typing import Any

from bench.synapse import install
from homeserver.clock import system_clock
from homeserver.protocol.signing import SigningKey, encode_base64
from tests.federation_transport.network import CA, new_address
from tests.real_parts.cache import CACHE
from tests.real_parts.peer_process import PeerProcess
from tests.server_process import free_port

UNLIMITED = {"per_second": 1_000_000, "burst_count": 1_000_000}


async def python() -> Path:
    """What runs it; installs it if need be."""
    return await install(CACHE / "bench", postgres=False)


class Synapse:
    """A process with data in a folder; for clients it listens without TLS."""

    def __init__(self, folder: Path, python: Path) -> None:
        folder.mkdir()
        self.name = new_address()
        self._folder = folder
        self._port = free_port()
        self.base = f"http://127.0.0.1:{self._port}"
        issued = CA.issue_cert(self.name)
        (folder / "certificate.pem").write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(folder / "key.pem")
        CA.cert_pem.write_to_path(folder / "ca.pem")
        (folder / "log.yaml").write_text(json.dumps(self._logging()))
        self._key = SigningKey.from_seed("a_0", bytes(32))
        self._old_keys: dict[str, Any] = {}
        self._configure()
        self._process = PeerProcess(
            folder,
            [python, "-m", "synapse.app.homeserver", "-c", folder / "homeserver.yaml"],
            # Whom it asks that is no homeserver is to be believed, too.
            {"SSL_CERT_FILE": str(folder / "ca.pem")},
            f"{self.base}/_matrix/client/versions",
        )

    def _configure(self) -> None:
        version = self._key.key_id.removeprefix("ed25519:")
        (self._folder / "signing.key").write_text(f"ed25519 {version} {encode_base64(self._key.seed)}\n")
        (self._folder / "homeserver.yaml").write_text(json.dumps(self._config()))  # JSON is YAML

    def replace_key(self) -> None:
        """Sign with another key from the next start on, and publish this one as old; it must be down."""
        old, number = self._key, len(self._old_keys) + 1
        self._old_keys[old.key_id] = {"key": old.verify_key_base64, "expired_ts": system_clock()}
        self._key = SigningKey.from_seed(f"a_{number}", bytes([number]) * 32)
        self._configure()

    @property
    def log(self) -> str:
        return (self._folder / "homeserver.log").read_text()

    def start(self) -> None:
        """Start, and return once it answers."""
        self._process.start()

    def stop(self) -> None:
        self._process.stop()

    def _config(self) -> dict[str, Any]:
        limits: dict[str, Any] = dict.fromkeys(
            ("rc_message", "rc_registration", "rc_joins_per_room", "rc_room_creation", "rc_media_create"),
            UNLIMITED,
        )
        limits |= {
            "rc_login": dict.fromkeys(("address", "account", "failed_attempts"), UNLIMITED),
            "rc_joins": dict.fromkeys(("local", "remote"), UNLIMITED),
            "rc_invites": dict.fromkeys(("per_room", "per_user", "per_issuer"), UNLIMITED),
            "rc_presence": {"per_user": UNLIMITED},
            "rc_federation": {"window_size": 1000, "sleep_limit": 100_000, "reject_limit": 100_000},
        }
        return limits | {
            "server_name": self.name,
            "public_baseurl": f"{self.base}/",
            "listeners": [
                {
                    "port": self._port,
                    "bind_addresses": ["127.0.0.1"],
                    "type": "http",
                    "resources": [{"names": ["client"], "compress": False}],
                },
                {
                    "port": 8448,
                    "bind_addresses": [self.name],
                    "type": "http",
                    "tls": True,
                    "resources": [{"names": ["federation"], "compress": False}],
                },
            ],
            "tls_certificate_path": str(self._folder / "certificate.pem"),
            "tls_private_key_path": str(self._folder / "key.pem"),
            "federation_custom_ca_list": [str(self._folder / "ca.pem")],
            "ip_range_blacklist": [],
            "federation_ip_range_blacklist": [],
            "database": {"name": "sqlite3", "args": {"database": str(self._folder / "homeserver.db")}},
            "log_config": str(self._folder / "log.yaml"),
            "media_store_path": str(self._folder / "media"),
            "signing_key_path": str(self._folder / "signing.key"),
            "old_signing_keys": self._old_keys,
            "trusted_key_servers": [],
            "report_stats": False,
            "enable_registration": True,
            "enable_registration_without_verification": True,
            "allow_public_rooms_over_federation": True,
            "macaroon_secret_key": "test",
            "form_secret": "test",
            "bcrypt_rounds": 4,
            "presence": {"enabled": True},
        }

    def _logging(self) -> dict[str, Any]:
        handler = {
            "class": "logging.FileHandler",
            "filename": str(self._folder / "homeserver.log"),
            "formatter": "full",
        }
        return {
            "version": 1,
            "formatters": {"full": {"format": "%(asctime)s %(name)s %(levelname)s %(message)s"}},
            "handlers": {"file": handler},
            "root": {"level": "INFO", "handlers": ["file"]},
            "disable_existing_loggers": False,
        }
