"""Any request gets an answer in time, in the form of the specification, and harms nobody else.

Seeded: WEFT_TEST_FUZZ_SEED picks other requests. WEFT_TEST_FUZZ_SECONDS says how long to go on.
"""

import asyncio
import os
import random
import re
import time
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import msgspec
import pytest
from PIL import Image
from structlog.testing import capture_logs

from client_api.http import Route
from tests.client_api.conftest import Client, Reply, Server
from tests.client_api.crypto_device import PASSWORD, CrossSigner, CryptoDevice
from tests.client_api.hostile import Asker, Hostile, Request, event_contents
from tests.client_api.hostile_values import TOKENS

SEED = int(os.environ.get("WEFT_TEST_FUZZ_SEED", "1"))
SECONDS = float(os.environ.get("WEFT_TEST_FUZZ_SECONDS", "10"))
ANSWER_SECONDS = 5.0
RENEW_EVERY = 400
BY_DESIGN = {(504, "M_NOT_YET_UPLOADED")}
"""Server errors that the specification names."""
SESSION_OVER = {"M_UNKNOWN_TOKEN", "M_USER_DEACTIVATED", "M_USER_LOCKED", "M_USER_SUSPENDED"}
NO_FAULTS = (
    # The data describes no 401 there, though the text asks for interactive authentication.
    "/keys/device_signing/upload -> 401",
    "$.algorithm: ",
    ".encryption: ",
    "the specification has no such endpoint",
)
"""Algorithms are for clients to agree on; not every route is in the specification's data."""
ENDS_SESSIONS = re.compile(r"/(logout|logout/all|account/deactivate|account/password|delete_devices)$")

NAMES: dict[str, Sequence[str]] = {
    "key": ("displayname", "avatar_url", "m.tz", "org.example.field"),
    "kind": ("override", "content", "room", "sender", "underride", "m.read", "m.fully_read", "user", "guest"),
    "rule_id": (".m.rule.master", "cake", "!room:localhost"),
    "rel_type": ("m.thread", "m.annotation", "m.replace"),
    "tag": ("m.favourite", "u.work"),
    "session_id": ("session",),
    "server_name": ("localhost", "localhost", "elsewhere.example"),
    "filename": ("cat.png",),
    "stage": ("m.login.dummy", "m.login.terms", "m.login.registration_token"),
    "method": ("crop", "scale"),
    "dir": ("b", "f"),
    "format": ("event", "content"),
    "include": ("all", "participated"),
    "membership": ("join", "leave", "ban"),
    "limit": ("0", "1", "1000"),
    "ts": ("0", "99999999999999"),
    "width": ("32",),
    "height": ("32",),
    "text": ("text",),
}
SLIDING = "POST /_matrix/client/unstable/org.matrix.simplified_msc3575/sync"
LIST = {
    "ranges": [[0, 10]],
    "timeline_limit": 5,
    "required_state": [["m.room.member", "$LAZY"], ["*", "*"]],
    "filters": {"is_dm": False, "room_types": [None], "tags": ["m.favourite"], "room_name_like": "a"},
}
SLIDING_BODY = {
    "conn_id": "main",
    "lists": {"all": LIST},
    "room_subscriptions": {"!room:localhost": {"timeline_limit": 3, "required_state": []}},
    "extensions": {
        "to_device": {"enabled": True, "limit": 10},
        "e2ee": {"enabled": True},
        "account_data": {"enabled": True, "lists": ["all"]},
        "receipts": {"enabled": True, "rooms": ["!room:localhost"]},
        "typing": {"enabled": True},
    },
}
BACKUP = {"algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": {"public_key": "abc"}}


class World:
    """A room and its people. Whoever loses their session is replaced."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._count = 0
        self._contents = event_contents()
        types = sorted(self._contents)
        self._names: dict[str, Sequence[str]] = {**NAMES, "event_type": types, "type": types}
        self.people: dict[str, Client] = {}
        self._askers: dict[str, Asker] = {}

    async def replace(self, name: str) -> None:
        """Somebody new in the part of one who was logged out; without members the room is made anew."""
        await self._newcomer(name)
        if name in ("alice", "bob"):
            await self.renew()

    async def renew(self) -> None:
        """A new room with some history, for people who are all there."""
        for name in ("alice", "bob", "mallory", "guest", "admin", "leaver"):
            person = self.people.get(name)
            if person is None or (await person.call("GET", "/sync?timeout=0", expect=None)).status != 200:
                await self._newcomer(name)
        alice, bob, admin = self.people["alice"], self.people["bob"], self.people["admin"]
        for person in (alice, bob):
            suspend = f"/_matrix/client/v1/admin/suspend/{person.user_id}"
            await admin.put(suspend, {"suspended": False})
        self._count += 1
        alias = f"fuzz{self._count}"
        room_id = await alice.create_room(
            preset="public_chat",
            room_alias_name=alias,
            room_version=random.Random(self._count).choice(["12", "12", "11", "10", "6", "1"]),
            initial_state=[{"type": "m.room.guest_access", "content": {"guest_access": "can_join"}}],
        )
        await bob.join(room_id)
        sent = [await alice.send(room_id, "one"), await bob.send(room_id, "two")]
        thread = {"rel_type": "m.thread", "event_id": sent[0]}
        sent.append(await bob.send(room_id, {"msgtype": "m.text", "body": "three", "m.relates_to": thread}))
        sync = await alice.sync(full=True)
        positions = [sync["next_batch"], sync["rooms"]["join"][room_id]["timeline"]["prev_batch"]]
        self._names |= {
            "room_id": [room_id],
            "room_id_or_alias": [room_id, f"#{alias}:localhost"],
            "alias": [f"#{alias}:localhost"],
            "event_id": sent,
            "user_id": [person.user_id for person in self.people.values()],
            "device_id": [person.device_id for person in self.people.values()],
            **dict.fromkeys(("since", "from", "to", "at"), positions),
        }
        self._askers.clear()

    async def asker(self, name: str) -> Asker:
        """What this person has and knows."""
        if name not in self._askers:
            self._askers[name] = await self._asker(self.people[name])
        return self._askers[name]

    async def _newcomer(self, name: str) -> None:
        self._count += 1
        client = self._server.client()
        if name == "guest":
            body = await client.post("/register?kind=guest", {})
            client.token, client.user_id = body["access_token"], body["user_id"]
            client.device_id = body["device_id"]
        else:
            await client.register(f"{name}{self._count}")
        if name == "admin":
            await self._server.app.people.accounts.update(client.user_id, is_admin=True)
        self.people[name] = client
        self._askers.pop(name, None)

    async def _asker(self, client: Client) -> Asker:
        names: dict[str, Sequence[str]] = {
            **self._names,
            "user_id": [client.user_id, client.user_id, *self._names["user_id"]],
            "device_id": [client.device_id, client.device_id, *self._names["device_id"]],
            "state_key": ["", "", "key", client.user_id, *self._names["user_id"], *self._names["room_id"]],
        }
        image = BytesIO()
        Image.new("RGB", (40, 30), "red").save(image, "PNG")
        upload = await client.call("POST", "/_matrix/media/v3/upload", data=image.getvalue(), expect=None)
        backup = await client.call("POST", "/room_keys/version", BACKUP, expect=None)
        filter_id = await client.call("POST", f"/user/{client.user_id}/filter", {}, expect=None)
        if upload.status == backup.status == filter_id.status == 200:
            names["media_id"] = [upload.body["content_uri"].rpartition("/")[2]]
            names["version"] = [backup.body["version"]]
            names["filter_id"] = [filter_id.body["filter_id"]]
        device = CryptoDevice(client)
        keys, signer = device.device_keys(), CrossSigner(client.user_id)
        user = {"type": "m.id.user", "user": client.user_id}
        proof = {"type": "m.login.password", "identifier": user, "password": PASSWORD}
        bodies: dict[str, Any] = {
            **self._contents,
            SLIDING: SLIDING_BODY,
            "POST /_matrix/client/v3/login": proof,
            "POST /_matrix/client/v3/keys/upload": {
                "device_keys": keys,
                "one_time_keys": device.one_time_keys(2),
                "fallback_keys": device.fallback_key(1),
            },
            "POST /_matrix/client/v3/keys/device_signing/upload": {**signer.upload(), "auth": proof},
            "POST /_matrix/client/v3/keys/signatures/upload": {
                client.user_id: {client.device_id: signer.sign_device(keys)}
            },
            "PUT /_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device": {
                "device_id": client.device_id,
                "device_data": {"algorithm": "org.matrix.msc3814.v1.olm"},
                "device_keys": keys,
            },
        }
        return Asker(names, bodies, proof)


def routes_of(server: Server) -> list[Route]:
    return [declared for module in server.app.modules for declared, _ in module.routes()]


def fault_of(reply: Reply) -> str | None:
    """What is wrong with an answer, whatever the question was."""
    if reply.status >= 500 and (reply.status, reply.errcode) not in BY_DESIGN:
        return f"{reply.status} {reply.body!r}"
    if reply.status >= 400:
        interactive = reply.status == 401 and isinstance(reply.body, dict) and "flows" in reply.body
        standard = (
            isinstance(reply.body, dict)
            and isinstance(reply.body.get("errcode"), str)
            and isinstance(reply.body.get("error"), str)
        )
        page = reply.headers["Content-Type"].startswith("text/html")
        if not (interactive or standard or page):
            return f"{reply.status}, not the standard error form: {reply.body!r}"
    if reply.headers.get("Access-Control-Allow-Origin") != "*":
        return "no CORS headers"
    return None


async def ask(person: Client, request: Request, wrong_token: str | None) -> tuple[Reply | None, str | None]:
    """Send it; the answer, and what is wrong with it."""
    headers = dict(request.headers)
    asker = person
    if wrong_token is not None:
        asker = person.stranger()
        headers["Authorization"] = wrong_token
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            reply = await asker.call(
                request.method, request.path, data=request.body, headers=headers, expect=None
            )
    except TimeoutError:
        return None, f"no answer in {ANSWER_SECONDS:g} s"
    except AssertionError as violation:
        if any(place in str(violation) for place in NO_FAULTS):
            return None, None
        return None, f"against the specification: {violation}"
    except msgspec.DecodeError as error:
        return None, f"the answer is not JSON: {error}"
    return reply, fault_of(reply)


async def test_no_request_brings_a_server_error_a_hang_or_harm_to_others(server: Server) -> None:
    choose = random.Random(SEED)
    world = World(server)
    hostile = Hostile(SEED)
    routes = routes_of(server)
    faults: dict[str, str] = {}
    unforeseen: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unforeseen.append(context))
    until = time.monotonic() + SECONDS
    asked = 0

    with capture_logs() as logged:
        while time.monotonic() < until or asked < len(routes):
            choose.shuffle(routes)
            for route in routes:
                if asked % RENEW_EVERY == 0:
                    await world.renew()
                name = choose.choice(["alice", "alice", "alice", "bob", "bob", "mallory", "guest", "admin"])
                if ENDS_SESSIONS.search(route.path):
                    name = "leaver"
                request = hostile.request(route, await world.asker(name))
                wrong_token = choose.choice(TOKENS) if choose.random() < 0.05 else None
                reply, fault = await ask(world.people[name], request, wrong_token)
                asked += 1
                if fault is not None:
                    faults.setdefault(f"{route.method} {route.path}: {fault[:300]}", str(request))
                if reply is not None and reply.errcode in SESSION_OVER and wrong_token is None:
                    await world.replace(name)
        await world.renew()
        for person in world.people.values():
            await person.sync(full=True)
    for entry in logged:
        if entry["log_level"] in ("error", "critical"):
            what = f"{entry['event']} {entry.get('route', '')} {entry.get('exc_info')!r}"
            faults.setdefault(what[:500], str(entry))
    for context in unforeseen:
        faults.setdefault(f"unforeseen: {context.get('message')} {context.get('exception')!r}", "")
    if faults:
        told = "\n".join(f"{fault}\n    {request}" for fault, request in faults.items())
        pytest.fail(f"seed {SEED}, {asked} requests:\n{told}", pytrace=False)
