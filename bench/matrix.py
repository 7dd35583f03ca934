"""Matrix client requests as ready bytes, and answers as checked JSON.

`Api` knows the server's address and formats requests; nothing here sends anything. A wrong answer is
a `WrongAnswer`, which the load counts and goes on.
"""

from collections.abc import Iterable
from typing import Any
from urllib.parse import quote, urlencode

import msgspec
import orjson

from bench.http1 import Response

JsonObject = dict[str, Any]

V3 = "/_matrix/client/v3"
ROOM_VERSION = "11"  # the same for all servers; the newest that all of them have had for long
MARK = "org.weft.bench"  # in the content of our messages: [run and sender, number]


class WrongAnswer(Exception):
    """The server answered something that the specification, or what was sent, does not allow."""


class Account(msgspec.Struct, frozen=True):
    """A registered user with one device."""

    user_id: str
    token: str
    device_id: str
    localpart: str

    @property
    def password(self) -> str:
        return "pw-" + self.localpart


def parsed(response: Response) -> JsonObject:
    """The JSON object of a 200 answer. Raises WrongAnswer for anything else."""
    if response.status != 200:
        raise WrongAnswer(f"status {response.status}: {response.body[:200].decode(errors='replace')}")
    try:
        value = orjson.loads(response.body)
    except orjson.JSONDecodeError as error:
        raise WrongAnswer(f"no JSON: {response.body[:100]!r}") from error
    if not isinstance(value, dict):
        raise WrongAnswer(f"no JSON object: {response.body[:100]!r}")
    return value


def text(value: JsonObject, key: str, prefix: str = "") -> str:
    """A string member that begins with a prefix. Raises WrongAnswer."""
    found = value.get(key)
    if not isinstance(found, str) or not found or not found.startswith(prefix):
        raise WrongAnswer(f"{key} is {found!r}")
    return found


def marks(events: Iterable[JsonObject], tag: str) -> list[int]:
    """The numbers of our messages with this tag, in the order of the events."""
    found = []
    for event in events:
        mark = event["content"].get(MARK)
        if mark is not None and mark[0] == tag:
            found.append(mark[1])
    return found


class Api:
    """Formats requests to one server."""

    def __init__(self, host: str, port: int, presence: str) -> None:
        self.host = host
        self.port = port
        self._presence = presence
        self._after = f" HTTP/1.1\r\nHost: {host}:{port}\r\n"
        self._transaction = 0

    def request(self, method: str, path: str, token: str = "", body: object = None) -> bytes:
        """Any request; `path` is already encoded."""
        head = f"{method} {path}{self._after}"
        if token:
            head += f"Authorization: Bearer {token}\r\n"
        if body is None:
            return (head + "\r\n").encode()
        raw = orjson.dumps(body)
        return f"{head}Content-Type: application/json\r\nContent-Length: {len(raw)}\r\n\r\n".encode() + raw

    def room(self, method: str, account: Account, room: str, rest: str, body: object = None) -> bytes:
        """A request below /rooms/{room}/."""
        return self.request(method, f"{V3}/rooms/{quote(room, safe='')}/{rest}", account.token, body)

    def transaction(self) -> str:
        """A transaction id that was not used yet."""
        self._transaction += 1
        return f"t{self._transaction}"

    def register(self, localpart: str) -> bytes:
        body = {
            "username": localpart,
            "password": f"pw-{localpart}",
            "auth": {"type": "m.login.dummy"},
        }
        return self.request("POST", f"{V3}/register", body=body)

    def login(self, account: Account) -> bytes:
        body = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": account.localpart},
            "password": account.password,
        }
        return self.request("POST", f"{V3}/login", body=body)

    def create_room(self, account: Account) -> bytes:
        body = {"preset": "public_chat", "name": "bench", "room_version": ROOM_VERSION}
        return self.request("POST", f"{V3}/createRoom", account.token, body)

    def join(self, account: Account, room: str) -> bytes:
        return self.room("POST", account, room, "join", {})

    def leave(self, account: Account, room: str) -> bytes:
        return self.room("POST", account, room, "leave", {})

    def send(self, account: Account, room: str, tag: str, number: int) -> bytes:
        """One text message, marked so that it can be found again."""
        body = {
            "msgtype": "m.text",
            "body": f"message {number}: the quick brown fox jumps over the lazy dog",
            MARK: [tag, number],
        }
        return self.room("PUT", account, room, f"send/m.room.message/{self.transaction()}", body)

    def sync(self, account: Account, since: str, *, timeout_ms: int = 0, filter_json: str = "") -> bytes:
        head, tail = self.sync_around(account, timeout_ms=timeout_ms, filter_json=filter_json)
        if since:
            return head + b"&since=" + quote(since, safe="").encode() + tail
        return head + tail

    def sync_around(self, account: Account, *, timeout_ms: int, filter_json: str) -> tuple[bytes, bytes]:
        """A /sync request without its since token: what stands before `&since=…` and after it."""
        query = {"timeout": str(timeout_ms), "set_presence": self._presence}
        if filter_json:
            query["filter"] = filter_json
        head, _, tail = self.request("GET", f"{V3}/sync?{urlencode(query)}", account.token).partition(
            b" HTTP/1.1"
        )
        return head, b" HTTP/1.1" + tail

    def messages(self, account: Account, room: str, start: str = "", *, limit: int = 100) -> bytes:
        query = {"dir": "b", "limit": str(limit)} | ({"from": start} if start else {})
        return self.room("GET", account, room, f"messages?{urlencode(query)}")


def timeline_filter(limit: int, *, lazy: bool = True) -> str:
    """A /sync filter: so many events of each timeline, members lazily or all."""
    return orjson.dumps(
        {"room": {"timeline": {"limit": limit}, "state": {"lazy_load_members": lazy}}}
    ).decode()
