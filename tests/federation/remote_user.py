"""A user of another server who has devices with keys, of which that server tells when asked."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any

from aiohttp import web

from tests.client_api.crypto_device import ALGORITHM, CrossSigner, CryptoDevice
from tests.federation.servers import Homeserver, OtherServer

USER = "/_matrix/federation/v1/user"


class RemoteUser:
    """What the other server tells of one user; `stream_id` counts the changes."""

    def __init__(self, server: Homeserver, other: OtherServer, localpart: str = "visitor") -> None:
        self.user_id = f"@{localpart}:{other.name}"
        self.stream_id = 10
        self.devices: dict[str, Any] = {}
        self.names: dict[str, str] = {}
        self.signer: CrossSigner | None = None
        self.asked: list[str] = []
        """The last part of the path of each request."""
        self.answering = asyncio.Event()
        """Until it is set, no request is answered."""
        self.answering.set()
        self.changes: dict[str, Any] = {}
        """What is said in place of the truth."""
        self._server = server
        self._origin = other.name
        pages = other.peer.site.pages
        pages[f"{USER}/devices/{self.user_id}"] = self._tell_devices
        pages[f"{USER}/keys/query"] = self._tell_keys
        pages[f"{USER}/keys/claim"] = self._give_key

    def add(self, device_id: str, name: str | None = None) -> Any:
        """Another device; its keys."""
        owner: Any = SimpleNamespace(user_id=self.user_id, device_id=device_id)
        self.devices[device_id] = CryptoDevice(owner, 500 + len(self.devices)).device_keys()
        if name is not None:
            self.names[device_id] = name
        return self.devices[device_id]

    def cross_sign(self) -> CrossSigner:
        self.signer = CrossSigner(self.user_id)
        return self.signer

    async def edu(self, edu_type: str, **content: Any) -> None:
        """The other server says something of the user."""
        federation = self._server.app.federation
        assert federation is not None
        edu = {"edu_type": edu_type, "content": {"user_id": self.user_id, **content}}
        await federation.edus.receive(self._origin, edu)

    async def update(self, device_id: str, **content: Any) -> None:
        """The other server tells of a device, as it should unless `content` says otherwise."""
        before, self.stream_id = self.stream_id, self.stream_id + 1
        told = {"device_id": device_id, "stream_id": self.stream_id, "prev_id": [before]}
        if device_id in self.devices:
            told["keys"] = self.devices[device_id]
        await self.edu("m.device_list_update", **{**told, **content})

    async def _tell_devices(self, request: web.BaseRequest) -> web.Response:
        self.asked.append("devices")
        listed = [
            {"device_id": device_id, "keys": keys}
            | ({"device_display_name": self.names[device_id]} if device_id in self.names else {})
            for device_id, keys in self.devices.items()
        ]
        told = {"user_id": self.user_id, "stream_id": self.stream_id, "devices": listed}
        if self.signer is not None:
            keys = self.signer.upload()
            told |= {"master_key": keys["master_key"], "self_signing_key": keys["self_signing_key"]}
        await self.answering.wait()
        return web.json_response({**told, **self.changes})

    async def _tell_keys(self, request: web.BaseRequest) -> web.Response:
        self.asked.append("query")
        assert self.user_id in json.loads(await request.read())["device_keys"]
        told: dict[str, Any] = {"device_keys": {self.user_id: dict(self.devices)}}
        if self.signer is not None:
            keys = self.signer.upload()
            told["master_keys"] = {self.user_id: keys["master_key"]}
            told["self_signing_keys"] = {self.user_id: keys["self_signing_key"]}
        await self.answering.wait()
        return web.json_response({**told, **self.changes})

    async def _give_key(self, request: web.BaseRequest) -> web.Response:
        self.asked.append("claim")
        wanted = json.loads(await request.read())["one_time_keys"]
        keys = {
            user_id: {device_id: {f"{ALGORITHM}:K1": one_time_key(user_id)} for device_id in devices}
            for user_id, devices in wanted.items()
        }
        await self.answering.wait()
        return web.json_response({"one_time_keys": keys, **self.changes})


def one_time_key(user_id: str) -> Any:
    return {"key": "x" * 43, "signatures": {user_id: {"ed25519:PHONE": "y"}}}
