"""Another homeserver, as far as a driver has to be one: it has a key, signs events, and sends them."""

import ssl
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import aiohttp
import orjson
from aiohttp import web
from yarl import URL

from bench.matrix import ROOM_VERSION, JsonObject, WrongAnswer
from bench.results import OwnName
from federation.request_auth import authorization
from homeserver.protocol.events import Event, build_event
from homeserver.protocol.room_versions import ROOM_VERSIONS
from homeserver.protocol.signing import SigningKey, sign_json

_V1 = "/_matrix/federation/v1"
_V2 = "/_matrix/federation/v2"
_HOUR_MS = 3_600_000
_SECONDS = 120.0


class Peer:
    """Talks to one server."""

    def __init__(self, own: OwnName, server: str) -> None:
        self.user_id = f"@peer:{own.name}"
        self._own = own
        self._server = server
        self._key = SigningKey.from_seed("bench", own.name.encode().ljust(32))
        self._sent: dict[str, Event] = {}

    async def open(self) -> None:
        listening = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        listening.load_cert_chain(self._own.certificate, self._own.key)
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, self._own.name, self._own.port, ssl_context=listening).start()
        trusting = ssl.create_default_context(cafile=self._own.authority)
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=trusting), timeout=aiohttp.ClientTimeout(_SECONDS)
        )

    async def join(self, room: str) -> None:
        """Have the peer's user join. Raises WrongAnswer."""
        where = f"{quote(room, safe='')}/{quote(self.user_id, safe='')}"
        template = (await self._call("GET", f"{_V1}/make_join/{where}?ver={ROOM_VERSION}"))["event"]
        join = self.event(
            room,
            "m.room.member",
            {"membership": "join"},
            template["prev_events"],
            template["auth_events"],
            template["depth"],
            state_key=self.user_id,
        )
        path = f"{_V2}/send_join/{quote(room, safe='')}/{quote(join.event_id, safe='')}"
        await self._call("PUT", path, join.pdu)

    async def fetch(self, event_id: str) -> JsonObject:
        """An event that the server has. Raises WrongAnswer."""
        answer = await self._call("GET", f"{_V1}/event/{quote(event_id, safe='')}")
        (pdu,) = answer["pdus"]
        assert isinstance(pdu, dict)
        return pdu

    def event(
        self,
        room: str,
        type: str,
        content: JsonObject,
        prev_events: Sequence[str],
        auth_events: Sequence[str],
        depth: int,
        *,
        state_key: str | None = None,
    ) -> Event:
        event, _ = build_event(
            ROOM_VERSIONS[ROOM_VERSION],
            server_name=self._own.name,
            key=self._key,
            room_id=room,
            type=type,
            sender=self.user_id,
            state_key=state_key,
            content=content,
            prev_events=prev_events,
            auth_events=auth_events,
            depth=depth,
            origin_server_ts=_now(),
        )
        return event

    async def send(self, name: str, events: Sequence[Event]) -> None:
        """One transaction. Raises WrongAnswer, also when an event is refused."""
        self._sent.update((event.event_id, event) for event in events)
        content = {
            "origin": self._own.name,
            "origin_server_ts": _now(),
            "pdus": [event.pdu for event in events],
        }
        results = (await self._call("PUT", f"{_V1}/send/{name}", content))["pdus"]
        if refused := [result["error"] for result in results.values() if "error" in result]:
            raise WrongAnswer(f"{len(refused)} of {len(events)} events refused: {refused[0]}")

    async def _call(self, method: str, target: str, content: JsonObject | None = None) -> JsonObject:
        header = authorization(method, target, self._own.name, self._server, self._key, content)
        url = URL(f"https://{self._server}:{self._own.port}{target}", encoded=True)
        async with self._http.request(
            method,
            url,
            data=None if content is None else orjson.dumps(content),
            headers={"Authorization": header, "Content-Type": "application/json"},
        ) as response:
            body = await response.read()
        if response.status != 200:
            raise WrongAnswer(f"{method} {target[:60]}: {response.status} {body[:200]!r}")
        answer: JsonObject = orjson.loads(body)
        return answer

    async def _answer(self, request: web.Request) -> web.Response:
        if request.path == "/_matrix/key/v2/server":
            return web.json_response(self._keys())
        if request.path.startswith(f"{_V1}/send/"):
            return web.json_response({"pdus": {}})
        if request.path.startswith(f"{_V1}/get_missing_events/"):
            return web.json_response({"events": self._between(orjson.loads(await request.read()))})
        return web.json_response({"errcode": "M_UNRECOGNIZED", "error": "not here"}, status=404)

    def _between(self, asked: JsonObject) -> list[JsonObject]:
        """What lies behind some events, the oldest first.

        It was sent; but of events that come in the same moment Synapse takes any first.
        """
        seen = {*asked["earliest_events"], *asked["latest_events"]}
        found: list[Event] = []
        ends = [event for event_id in asked["latest_events"] if (event := self._sent.get(event_id))]
        while ends and len(found) < asked["limit"]:
            before = {each for end in ends for each in end.prev_events} - seen
            seen |= before
            ends = [event for event_id in before if (event := self._sent.get(event_id))]
            found += ends
        return [event.pdu for event in sorted(found[: asked["limit"]], key=lambda event: event.depth)]

    def _keys(self) -> JsonObject:
        said: dict[str, Any] = {
            "server_name": self._own.name,
            "valid_until_ts": _now() + _HOUR_MS,
            "verify_keys": {self._key.key_id: {"key": self._key.verify_key_base64}},
            "old_verify_keys": {},
        }
        return sign_json(said, self._own.name, self._key)


def _now() -> int:
    return int(time.time() * 1000)
