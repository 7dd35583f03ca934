"""What clients do to a cluster while it suffers, and whether what it answered was true.

Every operation is recorded. Afterwards a room's timeline, as each replica tells it, has to agree with

- each answer: an acknowledged event is there exactly once, under the id that was answered, and an attempt
  repeated under its transaction id, at whichever replica, made no second event;
- each device: its syncs showed every event once, in the timeline's order;
- the rules: nobody's message follows their ban;
- Kafka: whoever passes over the numbers already seen reads each entry once, in the log's order.
"""

import asyncio
import random
from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import quote

import aiohttp

Json = dict[str, Any]

RETRY_SECONDS = 0.05
ATTEMPT_SECONDS = 12.0
LONG_POLL_MS = 1000


class Failed(Exception):
    """A request that got no answer, or one that says to try again later."""


class Client:
    """One device, which picks a replica anew for each request."""

    def __init__(self, http: aiohttp.ClientSession, urls: Sequence[str], rng: random.Random) -> None:
        self._http = http
        self._urls = urls
        self._rng = rng
        self.token = ""
        self.user_id = ""
        self.device_id = ""
        self.failures = 0
        """Requests that got no answer, or one that says to try again later."""

    async def call(self, method: str, path: str, body: Json | None = None, **query: str) -> Json:
        """Raises Failed without an answer and for 429 and 5xx, AssertionError for all other errors."""
        url = self._rng.choice(self._urls) + (path if path.startswith("/_") else f"/_matrix/client/v3{path}")
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        try:
            timeout = aiohttp.ClientTimeout(total=ATTEMPT_SECONDS, sock_connect=2)
            async with self._http.request(
                method, url, json=body, params=query, headers=headers, timeout=timeout
            ) as response:
                answer: Json = await response.json()
                status = response.status
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            raise Failed(repr(error)) from error
        if status == 429 or status >= 500:
            assert status in (429, 502, 503, 504), f"{method} {path}: {status} {answer}"
            raise Failed(f"{status} {answer}")
        if status != 200:
            raise Refused(status, answer)
        return answer

    async def surely(self, method: str, path: str, body: Json | None = None, **query: str) -> Json:
        """Until there is an answer; for operations that may be repeated."""
        while True:
            try:
                return await self.call(method, path, body, **query)
            except Failed:
                self.failures += 1
                await asyncio.sleep(RETRY_SECONDS)

    async def register(self, name: str) -> "Client":
        body = {"username": name, "password": "correct horse", "auth": {"type": "m.login.dummy"}}
        answer = await self.call("POST", "/register", body)
        self.token, self.user_id, self.device_id = (
            answer["access_token"],
            answer["user_id"],
            answer["device_id"],
        )
        return self

    def at(self, url: str) -> "Client":
        """The same device, always at one replica."""
        other = Client(self._http, [url], self._rng)
        other.token, other.user_id, other.device_id = self.token, self.user_id, self.device_id
        return other

    async def timeline(self, room_id: str) -> list[Json]:
        """All events of a room, oldest first."""
        events: list[Json] = []
        query = {"dir": "f", "limit": "1000"}
        while True:
            page = await self.surely("GET", f"/rooms/{quote(room_id)}/messages", None, **query)
            events += page["chunk"]
            if "end" not in page:
                return events
            query["from"] = page["end"]


class Refused(AssertionError):
    """An error that says the request was wrong."""

    def __init__(self, status: int, answer: Json) -> None:
        super().__init__(f"{status} {answer}")
        self.errcode = answer.get("errcode")


class Talker:
    """Sends numbered messages one after another, each until it is answered or refused."""

    def __init__(self, client: Client, room_id: str) -> None:
        self.client = client
        self.room_id = room_id
        self.acknowledged: dict[str, str] = {}
        """Body → event id."""
        self.number = 0

    async def run(self, over: asyncio.Event) -> None:
        while not over.is_set():
            body = f"{self.client.user_id} {self.number}"
            path = f"/rooms/{quote(self.room_id)}/send/m.room.message/{self.number}"
            self.number += 1
            try:
                answer = await self.client.surely("PUT", path, {"msgtype": "m.text", "body": body})
                self.acknowledged[body] = answer["event_id"]
            except Refused as refused:
                if refused.errcode != "M_FORBIDDEN":
                    raise
                with suppress(Refused):
                    await self.client.surely("POST", f"/rooms/{quote(self.room_id)}/join", {})
                await asyncio.sleep(RETRY_SECONDS)


class Watcher:
    """A device that syncs all the time, from replica to replica."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.seen: dict[str, list[str]] = {}
        """Room → event ids in the order in which they came."""
        self.since = ""

    async def run(self, over: asyncio.Event) -> None:
        while not over.is_set():
            await self.sync()

    async def sync(self, timeout_ms: int = LONG_POLL_MS) -> None:
        """One answer, if there is one."""
        query = {"timeout": str(timeout_ms), "filter": '{"room":{"timeline":{"limit":5000}}}'}
        if self.since:
            query["since"] = self.since
        try:
            answer = await self.client.call("GET", "/sync", None, **query)
        except Failed:
            await asyncio.sleep(RETRY_SECONDS)
            return
        self.since = answer["next_batch"]
        joined = answer.get("rooms", {}).get("join", {})
        for room_id, room in joined.items():
            shown = [event["event_id"] for event in room["timeline"]["events"]]
            self.seen.setdefault(room_id, []).extend(shown)


class Moderator:
    """Bans a user for a moment, again and again."""

    def __init__(self, client: Client, room_id: str, victim: str, rng: random.Random) -> None:
        self.client = client
        self.room_id = room_id
        self.victim = victim
        self._rng = rng
        self.bans = 0

    async def run(self, over: asyncio.Event) -> None:
        room = f"/rooms/{quote(self.room_id)}"
        while not over.is_set():
            await asyncio.sleep(self._rng.uniform(0.2, 1.0))
            for action in ("ban", "unban"):
                # Repeated after a lost answer, the second attempt may find it done.
                with suppress(Refused):
                    await self.client.surely("POST", f"{room}/{action}", {"user_id": self.victim})
                self.bans += action == "ban"
                await asyncio.sleep(self._rng.uniform(0.05, 0.3))


def check_answers(talker: Talker, timeline: Sequence[Json]) -> None:
    """Acknowledged events are there once, and no attempt made two."""
    own = [e for e in timeline if e["type"] == "m.room.message" and e["sender"] == talker.client.user_id]
    bodies = [event["content"]["body"] for event in own]
    assert len(bodies) == len(set(bodies)), f"doubled: {[b for b in bodies if bodies.count(b) > 1]}"
    ids = {event["content"]["body"]: event["event_id"] for event in own}
    for body, event_id in talker.acknowledged.items():
        assert ids.get(body) == event_id, f"{body!r} was answered {event_id}, the room has {ids.get(body)}"
    numbers = [int(body.rpartition(" ")[2]) for body in bodies]
    assert numbers == sorted(numbers), "a sender's messages changed places"


def check_watched(watcher: Watcher, room_id: str, timeline: Sequence[Json]) -> None:
    """A device that was in the room all along saw the timeline as it is, each event once."""
    seen = watcher.seen.get(room_id, [])
    assert len(seen) == len(set(seen)), f"shown twice: {[e for e in seen if seen.count(e) > 1][:3]}"
    expected = [event["event_id"] for event in timeline]
    missing = [n for n, event_id in enumerate(expected) if event_id not in set(seen)]
    assert seen == expected, f"of {len(expected)} events {missing} are not shown, or in another order"


def check_bans(timeline: Sequence[Json]) -> None:
    """No event passes that the state at its place forbids."""
    banned: set[str] = set()
    for event in timeline:
        if event["type"] == "m.room.member":
            member = event["state_key"]
            (banned.add if event["content"]["membership"] == "ban" else banned.discard)(member)
        assert event["sender"] not in banned, f"{event['event_id']} follows the ban of its sender"


def check_same(timelines: Sequence[Sequence[Json]]) -> None:
    """One order for all readers."""
    first, *others = [[event["event_id"] for event in timeline] for timeline in timelines]
    for other in others:
        differ = next((n for n, pair in enumerate(zip(first, other, strict=False)) if len({*pair}) > 1), None)
        assert other == first, f"replicas tell {len(first)} and {len(other)} events, from {differ} on others"
