"""Two servers of a kind that talk to each other, each by TLS on a loopback address that is its name."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import trustme
from msgspec.structs import replace

from bench.results import OwnName, Restarted
from bench.server import Server
from bench.synapse import Synapse
from bench.weft import Weft

FEDERATION_PORT = 8448
_NETWORK = "127.0.0.0/8"


class Credentials:
    """A server's certificate, its key, and the authority that all of a run believe, as files."""

    def __init__(self, folder: Path, name: str, authority: trustme.CA) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        issued = authority.issue_cert(name)
        self.certificate, self.key, self.authority = (
            folder / file for file in ("certificate.pem", "key.pem", "ca.pem")
        )
        self.certificate.write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(self.key)
        authority.cert_pem.write_to_path(self.authority)


class FederatedWeft(Weft):
    def __init__(self, folder: Path, cores: Collection[int], name: str, authority: trustme.CA) -> None:
        super().__init__(folder, cores)
        self.server_name = name
        self._credentials = Credentials(folder, name, authority)

    def environment(self) -> Mapping[str, str]:
        return {
            **super().environment(),
            "WEFT_SERVER_NAME": self.server_name,
            "WEFT_FEDERATION_LISTEN": f"{self.server_name}:{FEDERATION_PORT}",
            "WEFT_FEDERATION_TLS_CERTIFICATE": str(self._credentials.certificate),
            "WEFT_FEDERATION_TLS_KEY": str(self._credentials.key),
            "WEFT_EGRESS_ALLOW_NETWORKS": _NETWORK,
            "WEFT_EGRESS_CA": str(self._credentials.authority),
        }


class FederatedSynapse(Synapse):
    def __init__(
        self, folder: Path, cores: Collection[int], python: Path, name: str, authority: trustme.CA
    ) -> None:
        self.server_name = name
        self._credentials = Credentials(folder, name, authority)
        super().__init__(folder, cores, python, None)

    def _config(self) -> dict[str, Any]:
        config = super()._config()
        del config["federation_domain_whitelist"]
        federation = {
            "port": FEDERATION_PORT,
            "bind_addresses": [self.server_name],
            "type": "http",
            "tls": True,
            "resources": [{"names": ["federation"], "compress": False}],
        }
        unlimited = {"window_size": 1000, "sleep_limit": 1_000_000, "reject_limit": 1_000_000}
        return config | {
            "server_name": self.server_name,
            "listeners": [*config["listeners"], federation],
            "tls_certificate_path": str(self._credentials.certificate),
            "tls_private_key_path": str(self._credentials.key),
            "federation_custom_ca_list": [str(self._credentials.authority)],
            "ip_range_blacklist": [],
            "federation_ip_range_blacklist": [],
            "rc_federation": unlimited,
            "filter_timeline_limit": -1,
        }


class Pair(Server):
    """Both of them, charged together; clients come to the first, but where a scenario says otherwise."""

    def __init__(
        self, name: str, first: FederatedWeft | FederatedSynapse, other: Server, own_name: OwnName
    ) -> None:
        """`own_name`: of whoever measures them."""
        self.name = name
        self.own_name = own_name
        self.details = f"{name}: two of {first.details}"
        self.first = first
        self.other = other
        self.port = first.port
        self.folder = first.folder

    def command(self) -> Sequence[str]:
        return self.first.command()

    def disk_bytes(self) -> int:
        return self.first.disk_bytes() + self.other.disk_bytes()

    async def start(self) -> Restarted:
        started = await self.first.start()
        return replace(started, pids=[*started.pids, *(await self.other.start()).pids])

    async def stop(self) -> None:
        await self.first.stop()
        await self.other.stop()

    def freeze(self) -> None:
        self.first.freeze()
        self.other.freeze()

    def thaw(self) -> None:
        self.first.thaw()
        self.other.thaw()

    async def awake(self) -> None:
        await self.first.awake()
        await self.other.awake()


def _own_name(folder: Path, name: str, authority: trustme.CA) -> OwnName:
    files = Credentials(folder / name, name, authority)
    paths = (str(file) for file in (files.certificate, files.key, files.authority))
    return OwnName(name, FEDERATION_PORT, *paths)


def weft_pair(folder: Path, cores: Collection[int], authority: trustme.CA) -> Pair:
    """Two of this tree."""
    names = ("127.81.0.1", "127.81.0.2")
    first, other = (FederatedWeft(folder / name, cores, name, authority) for name in names)
    return Pair("Weft ↔ Weft", first, other, _own_name(folder, "127.81.0.3", authority))


def synapse_pair(folder: Path, cores: Collection[int], python: Path, authority: trustme.CA) -> Pair:
    """Two Synapses."""
    names = ("127.82.0.1", "127.82.0.2")
    first, other = (FederatedSynapse(folder / name, cores, python, name, authority) for name in names)
    return Pair("Synapse ↔ Synapse", first, other, _own_name(folder, "127.82.0.3", authority))
