"""End-to-end encryption as the server sees it, keys and to-device messages; and logins, registrations."""

import base64
import secrets
from collections import Counter
from typing import Any

import orjson
from nacl.signing import SigningKey

from bench.crowd import Crowds
from bench.http1 import Response
from bench.load import Load, account_of
from bench.matrix import MARK, V3, Account, JsonObject, WrongAnswer, parsed, text
from bench.scenarios.scenario import Scenario

_USERS = 20
_KEYS = 50
_ALGORITHM = "signed_curve25519"
_SYNC_LIMIT = 500


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode().rstrip("=")


class Device:
    """A device that signs its keys, as clients do."""

    def __init__(self, account: Account) -> None:
        self.account = account
        self._signing = SigningKey.generate()
        self._number = 0

    def upload(self, count: int) -> JsonObject:
        """The body of /keys/upload with the identity and fresh one-time keys."""
        one_time = {}
        for _ in range(count):
            one_time[f"{_ALGORITHM}:K{self._number:06}"] = self._signed(
                {"key": _base64(secrets.token_bytes(32))}
            )
            self._number += 1
        device_id = self.account.device_id
        identity = {
            "user_id": self.account.user_id,
            "device_id": device_id,
            "algorithms": ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"],
            "keys": {
                f"ed25519:{device_id}": _base64(bytes(self._signing.verify_key)),
                f"curve25519:{device_id}": _base64(
                    bytes(self._signing.to_curve25519_private_key().public_key)
                ),
            },
        }
        return {"device_keys": self._signed(identity), "one_time_keys": one_time}

    def _signed(self, value: dict[str, Any]) -> JsonObject:
        raw = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
        signature = _base64(self._signing.sign(raw).signature)
        key = f"ed25519:{self.account.device_id}"
        return value | {"signatures": {self.account.user_id: {key: signature}}}


class Encryption(Scenario):
    name = "e2ee"
    about = "to-device sends, key upload, query and claim among 20 users of a room"

    def __init__(self, load: Load, crowds: Crowds) -> None:
        super().__init__(load, crowds)
        self._claimed: set[tuple[str, str, str]] = set()
        self._left: Counter[str] = Counter()

    async def prepare(self) -> None:
        self.users = await self.load.accounts(_USERS)
        await self.load.room(self.users)

    async def measure(self) -> None:
        await self.load.each(range(_USERS), self._change_device)
        self.devices = [Device(user) for user in self.users]
        self._left.clear()
        self.since = [await self.load.since(user) for user in self.users]
        # Of its first upload, which brings the identity, everybody in the room is told.
        await self._upload(f"first upload, {_KEYS} keys, 4 at once")
        await self._upload(f"upload {_KEYS} keys, 4 at once")
        await self._query()
        await self._claim()
        await self._to_device()

    async def _change_device(self, who: int) -> None:
        """Logs a user in anew, and out where they were."""
        load, user = self.load, self.users[who]
        self.users[who] = account_of(await load.call(load.api.login(user)), user.localpart)
        await load.call(load.api.request("POST", f"{V3}/logout", user.token, {}))

    async def _upload(self, name: str) -> None:
        api = self.load.api
        ready = [
            api.request("POST", f"{V3}/keys/upload", device.account.token, device.upload(_KEYS))
            for device in self.devices
        ]

        def check(worker: int, number: int, response: Response) -> None:
            user = self.users[number].user_id
            self._left[user] += _KEYS
            count = parsed(response)["one_time_key_counts"].get(_ALGORITHM)
            if count != self._left[user]:
                raise WrongAnswer(f"{count} one-time keys after an upload, not {self._left[user]}")

        await self.load.loop(name, 4, lambda worker, number: ready[number], check, fewest=_USERS, most=_USERS)

    async def _query(self) -> None:
        body: JsonObject = {"device_keys": {user.user_id: [] for user in self.users}}

        def request(worker: int, number: int) -> bytes:
            token = self.users[number % _USERS].token
            return self.load.api.request("POST", f"{V3}/keys/query", token, body)

        def check(worker: int, number: int, response: Response) -> None:
            found = parsed(response)["device_keys"]
            known = sum(user.device_id in found.get(user.user_id, ()) for user in self.users)
            if known < _USERS:
                raise WrongAnswer(f"/keys/query shows {known} of {_USERS} devices")

        await self.load.loop(f"query keys of {_USERS} users, 4 at once", 4, request, check)

    async def _claim(self) -> None:
        targets = [user for user in self.users for _ in range(self._left[user.user_id] // 2)]

        def request(worker: int, number: int) -> bytes:
            target = targets[number]
            body = {"one_time_keys": {target.user_id: {target.device_id: _ALGORITHM}}}
            return self.load.api.request("POST", f"{V3}/keys/claim", self.users[worker].token, body)

        def check(worker: int, number: int, response: Response) -> None:
            target = targets[number]
            found = parsed(response)["one_time_keys"].get(target.user_id, {}).get(target.device_id, {})
            if len(found) != 1:
                raise WrongAnswer(f"/keys/claim gives {len(found)} keys, not one")
            self._left[target.user_id] -= 1
            key = (target.user_id, target.device_id, *found)
            if key in self._claimed:
                raise WrongAnswer(f"/keys/claim gives out {key} twice")
            self._claimed.add(key)

        await self.load.loop("claim a one-time key, 10 at once", 10, request, check, most=len(targets))

    async def _to_device(self) -> None:
        load = self.load
        tag = load.new_name()
        sent: list[Counter[int]] = [Counter() for _ in self.users]

        def request(worker: int, number: int) -> bytes:
            target = self.users[number % _USERS]
            content = {"algorithm": "m.olm.v1.curve25519-aes-sha2", MARK: [tag, number]}
            body = {"messages": {target.user_id: {target.device_id: content}}}
            path = f"{V3}/sendToDevice/m.room.encrypted/{load.api.transaction()}"
            return load.api.request("PUT", path, self.users[worker].token, body)

        def check(worker: int, number: int, response: Response) -> None:
            parsed(response)
            sent[number % _USERS][number] += 1

        await load.loop("to-device message, 10 at once", 10, request, check)

        async def receive(who: int) -> None:
            got: Counter[int] = Counter()
            for _ in range(_SYNC_LIMIT):
                request = load.api.sync(self.users[who], self.since[who], timeout_ms=500)
                answer = await load.call(request)
                self.since[who] = text(answer, "next_batch")
                events = answer.get("to_device", {}).get("events", ())
                got.update(e["content"][MARK][1] for e in events if e["content"].get(MARK, [""])[0] == tag)
                if got.total() >= sent[who].total() or not events:
                    break
            if got != sent[who]:
                lost, double = (sent[who] - got).total(), (got - sent[who]).total()
                load.mistake(f"to-device messages: {lost} lost, {double} too many")

        await load.each(range(_USERS), receive)


class Accounts(Scenario):
    name = "accounts"
    about = "login and registration"

    async def prepare(self) -> None:
        self.users = await self.load.accounts(_USERS)

    async def measure(self) -> None:
        api = self.load.api
        devices: set[str] = set()
        names: list[str] = []

        def login(worker: int, number: int) -> bytes:
            return api.login(self.users[number % _USERS])

        def check_login(worker: int, number: int, response: Response) -> None:
            device = account_of(parsed(response), self.users[number % _USERS].localpart).device_id
            if device in devices:
                raise WrongAnswer("two logins got one device id")
            devices.add(device)

        def register(worker: int, number: int) -> bytes:
            names.append(self.load.new_name())
            return api.register(names[-1])

        def check_register(worker: int, number: int, response: Response) -> None:
            account_of(parsed(response), names[number])

        await self.load.loop("login, 4 at once", 4, login, check_login)
        await self.load.loop("registration, 4 at once", 4, register, check_register)
