"""What a client with end-to-end encryption does about keys: makes them, signs them, uploads them."""

import copy
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web
from nacl.signing import SigningKey

from homeserver.app.stores import SPECS
from homeserver.app.wiring import App
from homeserver.config import Config
from homeserver.protocol.canonical_json import encode
from homeserver.protocol.signing import encode_base64
from rest.connections import runner_of
from storage.log import ShardMap
from storage.sqlite import open_store
from storage.store import Store
from tests.client_api.conftest import VALIDATOR, Client, Server

ALGORITHM = "signed_curve25519"
ALGORITHMS = ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"]
PASSWORD = "correct horse"


def key_from(number: int) -> SigningKey:
    """A key that is the same in every run."""
    return SigningKey(number.to_bytes(32, "big"))


def public(key: SigningKey) -> str:
    return encode_base64(bytes(key.verify_key))


def signed(obj: dict[str, Any], user_id: str, key_id: str, key: SigningKey) -> dict[str, Any]:
    """A copy of the object with one more signature."""
    body = {name: value for name, value in obj.items() if name not in ("signatures", "unsigned")}
    result = copy.deepcopy(obj)
    signatures = result.setdefault("signatures", {}).setdefault(user_id, {})
    signatures[key_id] = encode_base64(key.sign(encode(body)).signature)
    return result


def only_signature(obj: dict[str, Any], user_id: str, key_id: str, key: SigningKey) -> dict[str, Any]:
    """The object with this signature and no other, as /keys/signatures/upload wants it."""
    return signed({name: value for name, value in obj.items() if name != "signatures"}, user_id, key_id, key)


class CryptoDevice:
    """The keys of one client; `number` makes them differ from those of others."""

    def __init__(self, client: Client, number: int = 1, device_id: str | None = None) -> None:
        self.client = client
        self.user_id = client.user_id
        self.device_id = device_id or client.device_id
        self.number = number
        self.key = key_from(number)
        self.key_id = f"ed25519:{self.device_id}"
        self._one_time = 0

    def sign(self, obj: dict[str, Any]) -> dict[str, Any]:
        return signed(obj, self.user_id, self.key_id, self.key)

    def device_keys(self, **more: Any) -> dict[str, Any]:
        keys = {
            self.key_id: public(self.key),
            f"curve25519:{self.device_id}": public(key_from(self.number + 1000)),
        }
        return self.sign(
            {
                "user_id": self.user_id,
                "device_id": self.device_id,
                "algorithms": ALGORITHMS,
                "keys": keys,
                **more,
            }
        )

    def one_time_key(self, number: int, **more: Any) -> dict[str, Any]:
        return self.sign({"key": public(key_from(self.number * 100_000 + number)), **more})

    def one_time_keys(self, count: int) -> dict[str, Any]:
        """The next `count` keys that were not made yet."""
        first = self._one_time
        self._one_time += count
        return {f"{ALGORITHM}:K{n:04}": self.one_time_key(n) for n in range(first, first + count)}

    def fallback_key(self, number: int) -> dict[str, Any]:
        return {f"{ALGORITHM}:F{number}": self.one_time_key(50_000 + number, fallback=True)}

    async def upload(self, one_time: int = 0, **more: Any) -> dict[str, int]:
        """Upload the identity, with some one-time keys; the counts."""
        body = {"device_keys": self.device_keys(), "one_time_keys": self.one_time_keys(one_time), **more}
        counts: dict[str, int] = (await self.client.post("/keys/upload", body))["one_time_key_counts"]
        return counts

    async def claim(self, other: "CryptoDevice") -> tuple[str, Any] | None:
        """A one-time key of another device as (name, key)."""
        wanted = {other.user_id: {other.device_id: ALGORITHM}}
        answer = await self.client.post("/keys/claim", {"one_time_keys": wanted})
        keys = answer["one_time_keys"].get(other.user_id, {}).get(other.device_id)
        return next(iter(keys.items())) if keys else None

    async def query(self, *user_ids: str) -> Any:
        return await self.client.post("/keys/query", {"device_keys": {user_id: [] for user_id in user_ids}})


class CrossSigner:
    """A user's cross-signing keys; `number` makes them differ from those of others."""

    def __init__(self, user_id: str, number: int = 1) -> None:
        self.user_id = user_id
        self.master = key_from(10_000 + number)
        self.self_signing = key_from(20_000 + number)
        self.user_signing = key_from(30_000 + number)

    def _key(self, usage: str, key: SigningKey) -> dict[str, Any]:
        return {"user_id": self.user_id, "usage": [usage], "keys": {f"ed25519:{public(key)}": public(key)}}

    def master_key(self) -> dict[str, Any]:
        return self._key("master", self.master)

    def by_master(self, obj: dict[str, Any]) -> dict[str, Any]:
        return signed(obj, self.user_id, f"ed25519:{public(self.master)}", self.master)

    def upload(self) -> dict[str, Any]:
        """The body of /keys/device_signing/upload."""
        return {
            "master_key": self.master_key(),
            "self_signing_key": self.by_master(self._key("self_signing", self.self_signing)),
            "user_signing_key": self.by_master(self._key("user_signing", self.user_signing)),
        }

    def sign_device(self, keys: dict[str, Any]) -> dict[str, Any]:
        return only_signature(keys, self.user_id, f"ed25519:{public(self.self_signing)}", self.self_signing)

    def sign_user(self, master_key: dict[str, Any]) -> dict[str, Any]:
        return only_signature(
            master_key, self.user_id, f"ed25519:{public(self.user_signing)}", self.user_signing
        )


async def log_in(client: Client, **more: Any) -> Client:
    """Another device of the client's user."""
    device = client.stranger()
    user = {"type": "m.id.user", "user": client.user_id}
    body = await device.post(
        "/login", {"type": "m.login.password", "identifier": user, "password": PASSWORD, **more}
    )
    device.token, device.user_id, device.device_id = body["access_token"], body["user_id"], body["device_id"]
    return device


async def challenged(client: Client, body: dict[str, Any]) -> dict[str, Any]:
    """The answer 401 to an upload of cross-signing keys.

    The specification's data describes it for other endpoints only: it is checked as one of theirs.
    """
    url = f"{client._base}/_matrix/client/v3/keys/device_signing/upload"
    headers = {"Authorization": f"Bearer {client.token}"}
    async with client._http.post(url, json=body, headers=headers) as response:
        answer: dict[str, Any] = await response.json()
        assert response.status == 401, answer
    if VALIDATOR is not None:
        VALIDATOR.assert_response("POST", "/_matrix/client/v3/delete_devices", 401, answer)
    return answer


def password_proof(client: Client, session: str) -> dict[str, Any]:
    """The `auth` of the password stage."""
    user = {"type": "m.id.user", "user": client.user_id}
    return {"type": "m.login.password", "identifier": user, "password": PASSWORD, "session": session}


async def restart(server: Server, *clients: Client) -> None:
    """Stop the server and start it again on the same data; the clients find it at its new port."""
    await server.restart()
    for client in clients:
        client._base = server.base


@asynccontextmanager
async def serving(data_dir: Path, wrap: Callable[[Store], Store]) -> AsyncIterator[str]:
    """A server on a store with faults; its base URL."""
    config = Config.for_development("localhost", data_dir, 8008)
    store = await open_store(config.storage.uri, server_name="localhost", shards=ShardMap(1, 1), specs=SPECS)
    app = App(config, wrap(store))
    await app.start()
    runner = runner_of(app.web_application())
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
        await app.close()
