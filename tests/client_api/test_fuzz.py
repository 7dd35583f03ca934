"""Any request gets an answer in time, in the form of the specification, and harms nobody else.

Seeded: WEFT_TEST_FUZZ_SEED picks other requests. WEFT_TEST_FUZZ_SECONDS says how long to go on.
"""

import asyncio
import os
import random
import time
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from client_api.http import Route
from tests.client_api.conftest import Client, Reply, Server
from tests.client_api.hostile import TOKENS, Hostile, Request

SEED = int(os.environ.get("WEFT_TEST_FUZZ_SEED", "1"))
SECONDS = float(os.environ.get("WEFT_TEST_FUZZ_SECONDS", "40"))
ANSWER_SECONDS = 5.0
SYNC_EVERY = 400
BY_DESIGN = {(504, "M_NOT_YET_UPLOADED")}
"""Server errors that the specification names."""
NO_FAULTS = ("$.algorithm: ", "the specification has no such endpoint")
"""A backup's algorithm is for clients to agree on; not every route is in the specification's data."""
SESSION_OVER = {"M_UNKNOWN_TOKEN", "M_USER_DEACTIVATED", "M_USER_LOCKED", "M_USER_SUSPENDED"}


class World:
    """A room and its people; whoever loses their session is replaced by a newcomer."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._count = 0
        self.people: dict[str, Client] = {}
        self.names: dict[str, list[str]] = {
            "type": ["m.direct", "org.example.type", "m.room.message"],
            "event_type": ["m.room.message", "m.room.topic", "m.room.member", "m.reaction", "org.example"],
            "state_key": ["", "key"],
            "alias": ["#fuzz:localhost"],
            "key": ["displayname", "avatar_url", "m.tz", "org.example.field"],
            "key_name": ["displayname", "avatar_url"],
            "kind": ["override", "content", "room", "sender", "underride", "m.read", "m.fully_read"],
            "rule_id": [".m.rule.master", "cake", "!room:localhost"],
            "rel_type": ["m.thread", "m.annotation", "m.replace"],
            "tag": ["m.favourite", "u.work"],
            "version": ["1", "2"],
            "session_id": ["session"],
            "filter_id": ["0"],
            "server_name": ["localhost", "elsewhere.example"],
            "media_id": ["none"],
            "filename": ["cat.png"],
            "method": ["crop", "scale"],
            "dir": ["b", "f"],
            "limit": ["0", "1", "1000"],
            "ts": ["0", "99999999999999"],
            "width": ["32"],
            "height": ["32"],
            "text": ["text"],
        }

    async def newcomer(self, name: str) -> Client:
        self._count += 1
        client = self._server.client()
        if name == "guest":
            body = await client.post("/register?kind=guest", {})
            client.token, client.user_id, client.device_id = (
                body["access_token"],
                body["user_id"],
                body["device_id"],
            )
        else:
            await client.register(f"{name}{self._count}")
        if name == "admin":
            await self._server.app.accounts.update(client.user_id, is_admin=True)
        self.people[name] = client
        return client

    async def renew(self) -> None:
        """A new room with some history. Whoever cannot go on is replaced first."""
        for name in ("alice", "bob", "mallory", "guest", "admin"):
            person = self.people.get(name)
            if person is None or (await person.call("GET", "/sync?timeout=0", expect=None)).status != 200:
                await self.newcomer(name)
        alice, bob = self.people["alice"], self.people["bob"]
        version = random.Random(self._count).choice(["12", "12", "11", "10", "6", "1"])
        self._count += 1
        room_id = await alice.create_room(
            preset="public_chat",
            room_alias_name=f"fuzz{self._count}",
            room_version=version,
            initial_state=[{"type": "m.room.guest_access", "content": {"guest_access": "can_join"}}],
        )
        await bob.join(room_id)
        sent = [await alice.send(room_id, "one"), await bob.send(room_id, "two")]
        sent.append(
            await bob.send(
                room_id,
                {
                    "msgtype": "m.text",
                    "body": "re",
                    "m.relates_to": {"rel_type": "m.thread", "event_id": sent[0]},
                },
            )
        )
        sync = await alice.sync(full=True)
        positions = [sync["next_batch"], sync["rooms"]["join"][room_id]["timeline"]["prev_batch"]]
        users = [person.user_id for person in self.people.values()]
        self.names |= {
            "room_id": [room_id],
            "room_id_or_alias": [room_id, f"#fuzz{self._count}:localhost"],
            "alias": [f"#fuzz{self._count}:localhost"],
            "event_id": sent,
            "user_id": users,
            "device_id": [person.device_id for person in self.people.values()],
            "since": positions,
            "from": positions,
            "to": positions,
            "at": positions,
        }


def routes_of(server: Server) -> list[Route]:
    found = [declared for module in server.app.modules for declared, _ in module.routes()]
    return [route for route in found if "/r0/" not in route.path]


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
    hostile = Hostile(SEED, world.names)
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
                if asked % SYNC_EVERY == 0:
                    await world.renew()
                request = hostile.request(route)
                person = choose.choice(list(world.people.values()))
                wrong_token = choose.choice(TOKENS) if choose.random() < 0.05 else None
                reply, fault = await ask(person, request, wrong_token)
                asked += 1
                if fault is not None:
                    faults.setdefault(f"{route.method} {route.path}: {fault[:300]}", str(request))
                if reply is not None and reply.errcode in SESSION_OVER:
                    for name, client in list(world.people.items()):
                        if client is person:
                            await world.newcomer(name)
        await world.renew()
        for person in world.people.values():
            await person.sync(full=True)
    for entry in logged:
        if entry["log_level"] in ("error", "critical"):
            error = entry.get("exc_info")
            faults.setdefault(
                f"{entry['event']} {entry.get('route', '')} {error!r}"[:500],
                str({**entry, "exc_info": error}),
            )
    for context in unforeseen:
        faults.setdefault(f"unforeseen: {context.get('message')} {context.get('exception')!r}", "")
    if faults:
        told = "\n".join(f"{fault}\n    {request}" for fault, request in faults.items())
        pytest.fail(f"seed {SEED}, {asked} requests:\n{told}", pytrace=False)
