"""Requests that no honest client sends, from a seed: the same seed makes the same requests.

A request begins as a plausible one for its route (path from names that exist, query and body from the
specification where that lies beside the repository) and is then spoilt in a few places. One that is wrong
everywhere is refused at the first look and shows nothing.
"""

import copy
import gzip
import json
import random
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

from client_api.http import Route
from tests.client_api.conftest import VALIDATOR
from tests.client_api.hostile_values import CODINGS, CONTENT_TYPES, RAW_BODIES, RAW_PATHS, VALUES, WORDS

PARAMETER = re.compile(r"\{(\w+)(?::(?:[^{}]|\{\})*)?\}")
MAX_QUERY = 6000
"""Longer request lines are refused before there is a route to answer."""
EVENT_ID, ROOM_ID = "$event:localhost", "!room:localhost"
CONTENTS: Mapping[str, Sequence[Any]] = {
    "m.room.message": (
        {"msgtype": "m.text", "body": "a", "m.relates_to": {"rel_type": "m.thread", "event_id": EVENT_ID}},
        {
            "body": "b",
            "m.relates_to": {"m.in_reply_to": {"event_id": EVENT_ID}},
            "m.mentions": {"room": True},
        },
        {
            "body": "* c",
            "m.new_content": {"body": "c"},
            "m.relates_to": {"rel_type": "m.replace", "event_id": EVENT_ID},
        },
    ),
    "m.reaction": ({"m.relates_to": {"rel_type": "m.annotation", "event_id": EVENT_ID, "key": "+"}},),
    "m.room.redaction": ({"redacts": EVENT_ID, "reason": "a"},),
    "m.room.member": ({"membership": "invite", "reason": "a"}, {"membership": "join", "displayname": "a"}),
    "m.room.name": ({"name": "a"},),
    "m.room.join_rules": (
        {"join_rule": "restricted", "allow": [{"type": "m.room_membership", "room_id": ROOM_ID}]},
        {"join_rule": "knock"},
        {"join_rule": "public"},
    ),
    "m.room.history_visibility": ({"history_visibility": "world_readable"}, {"history_visibility": "joined"}),
    "m.room.tombstone": ({"body": "a", "replacement_room": ROOM_ID},),
    "m.space.child": ({"via": ["localhost"], "order": "a"},),
    "org.example": ({},),
}
"""What relates to events, and what the server itself looks at."""
WAITING = ("timeout", "timeout_ms")
"""How long to wait for something is up to the client: with a large number here an answer takes as long."""


class Request(NamedTuple):
    """One request as it goes on the wire."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes | None

    def __str__(self) -> str:
        body = "" if self.body is None else f" {self.body[:300]!r} ({len(self.body)} bytes)"
        headers = f" {dict(self.headers)}" if self.headers else ""
        return f"{self.method} {self.path[:400]}{headers}{body}"


class Specified(NamedTuple):
    """What the specification knows of a route."""

    query: Sequence[str]
    body: Any


QUERY_WITHOUT_SPECIFICATION: Sequence[str] = (
    "access_token",
    "after",
    "at",
    "before",
    "dir",
    "filter",
    "format",
    "from",
    "full_state",
    "height",
    "include",
    "kind",
    "limit",
    "max_depth",
    "membership",
    "method",
    "pos",
    "since",
    "to",
    "ts",
    "user_id",
    "username",
    "version",
    "via",
    "width",
)


def specified(route: Route) -> Specified:
    """The names of the query parameters and an example of the body; guesses in a bare clone."""
    path = PARAMETER.sub("x", route.path)
    found = VALIDATOR.match(route.method, path) if VALIDATOR is not None else None
    if found is None:
        return Specified(QUERY_WITHOUT_SPECIFICATION, None)
    operation = found[0]
    query = [parameter["name"] for _, parameter in operation.parameters if parameter["in"] == "query"]
    base, request = operation.request_body()
    media, _ = operation.media(base, request)
    if not media:
        return Specified(query, None)
    return Specified(query, _example(operation.data, base, media))


def event_contents() -> dict[str, list[Any]]:
    """Contents by event type, as the specification's examples have them; a few of our own in a bare clone."""
    contents = {event_type: list(contents) for event_type, contents in CONTENTS.items()}
    if VALIDATOR is not None:
        for file in sorted((VALIDATOR.spec / "event-schemas/examples").glob("m.*.yaml")):
            event = VALIDATOR.data.load(f"file:///event-schemas/examples/{file.name}")
            contents.setdefault(file.name.removesuffix(".yaml").partition("$")[0], []).append(
                event.get("content", {})
            )
    return contents


def _example(data: Any, base: str, media: Any) -> Any:
    """What the data gives as an example, or one made of the schema."""
    if "example" in media:
        return data.example(base, media["example"])
    examples = [example["value"] for example in media.get("examples", {}).values() if "value" in example]
    if examples:
        return data.example(base, examples[0])
    return _from_schema(data, base, media.get("schema", {}), 0)


def _from_schema(data: Any, base: str, schema: Any, depth: int) -> Any:
    base, schema = data.deref(base, schema)
    if "example" in schema:
        return data.example(base, schema["example"])
    if "enum" in schema:
        return schema["enum"][0]
    made: dict[str, Any] = {}
    if depth < 6:
        for part in schema.get("allOf", ()):
            value = _from_schema(data, base, part, depth + 1)
            made.update(value if isinstance(value, dict) else {})
        for name, value in schema.get("properties", {}).items():
            made[name] = _from_schema(data, base, value, depth + 1)
    kind = schema.get("type", "object")
    if kind == "array":
        return [_from_schema(data, base, schema.get("items", {}), depth + 1)] if depth < 6 else []
    return {"string": "text", "integer": 1, "number": 1, "boolean": True}.get(str(kind), made)


class Asker(NamedTuple):
    """Who asks, as far as it shapes a request."""

    names: Mapping[str, Sequence[str]]
    """Values of path and query parameters that exist; those of anything in bodies too."""
    bodies: Mapping[str, Any]
    """Bodies that the server would take, by "METHOD path"; contents of events by their type."""
    proof: Mapping[str, Any]
    """What user-interactive authentication takes for `auth`."""


class Hostile:
    """Makes requests."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._known: dict[tuple[str, str], Specified] = {}
        self._numbered = 0

    def request(self, route: Route, asker: Asker) -> Request:
        """A request to this route with something wrong in it, most likely."""
        chance = self._random.random
        key = route.method, route.path
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = specified(route)
        spoil_path, spoil_query = chance() < 0.25, chance() < 0.35
        chosen: dict[str, str] = {}
        path = PARAMETER.sub(lambda found: self._segment(found[1], asker, spoil_path, chosen), route.path)
        query = self._query(known.query, asker, spoil_query)
        headers: dict[str, str] = {}
        body = None
        if route.method in ("PUT", "POST", "DELETE") or chance() < 0.05:
            example = asker.bodies.get(f"{route.method} {route.path}", known.body)
            contents = asker.bodies.get(chosen.get("event_type") or chosen.get("type") or "")
            if contents is not None:
                example = self._random.choice(contents)
            body = self._body(example if example is not None else {}, asker, headers)
        if chance() < 0.05:
            headers["Content-Type"] = self._random.choice(CONTENT_TYPES)
        return Request(route.method, path + query, headers, body)

    def _segment(self, name: str, asker: Asker, spoil: bool, chosen: dict[str, str]) -> str:
        if spoil and self._random.random() < 0.7:
            if self._random.random() < 0.15:
                return self._random.choice(RAW_PATHS)
            return quote(self._word(asker), safe="")
        chosen[name] = self._plausible(name, asker)
        return quote(chosen[name], safe="")

    def _word(self, asker: Asker) -> str:
        if self._random.random() < 0.2:
            return self._plausible(self._random.choice(sorted(asker.names)), asker)
        return self._random.choice(WORDS)

    def _plausible(self, name: str, asker: Asker) -> str:
        if name == "txn_id":
            self._numbered += 1
            return f"fuzz{self._numbered}"
        return self._random.choice(asker.names.get(name) or asker.names["text"])

    def _query(self, names: Sequence[str], asker: Asker, spoil: bool) -> str:
        # Routes are described without it that wait for half a minute where it is not given.
        pairs: list[tuple[str, str]] = [] if "timeout" in names else [("timeout", "0")]
        for name in names:
            if name in WAITING:
                pairs.append((name, self._random.choice(("0", "", "x", "-1")) if spoil else "0"))
            elif spoil and self._random.random() < 0.4:
                pairs.append((name, self._word(asker)))
            elif name in asker.names and self._random.random() < 0.7:
                pairs.append((name, self._plausible(name, asker)))
        if spoil and self._random.random() < 0.1:
            pairs += pairs
        while len(text := urlencode(pairs)) > MAX_QUERY:
            pairs.pop()
        return "?" + text if text else ""

    def _body(self, example: Any, asker: Asker, headers: dict[str, str]) -> bytes:
        kind = self._random.random()
        if kind < 0.12:
            body = self._random.choice(RAW_BODIES)
        else:
            value = self._fill(copy.deepcopy(example), asker)
            if kind < 0.75:
                for _ in range(self._random.choice((1, 1, 2, 4))):
                    value = self._spoil(value, asker)
            body = json.dumps(value).encode()
        coding = self._random.random()
        if coding < 0.01:
            headers["Content-Encoding"] = "gzip"
            body = gzip.compress(body, mtime=0)
        elif coding < 0.02:
            headers["Content-Encoding"] = self._random.choice(CODINGS)
            body = zlib.compress(body)
        return body

    def _fill(self, value: Any, asker: Asker) -> Any:
        """The examples' identifiers, replaced by ones that exist here; a proof where one is asked for."""
        if isinstance(value, dict):
            filled = {self._fill_text(key, asker): self._fill(inner, asker) for key, inner in value.items()}
            if "auth" in filled and self._random.random() < 0.7:
                filled["auth"] = dict(asker.proof)
            return filled
        if isinstance(value, list):
            return [self._fill(inner, asker) for inner in value]
        return self._fill_text(value, asker) if isinstance(value, str) else value

    def _fill_text(self, text: str, asker: Asker) -> str:
        name = {"@": "user_id", "!": "room_id", "$": "event_id", "#": "alias"}.get(text[:1])
        if name is None or text in asker.names["user_id"]:
            return text
        return self._plausible(name, asker) if self._random.random() < 0.8 else text

    def _spoil(self, value: Any, asker: Asker) -> Any:
        """Something else at one place: another value, a key more, a key less."""
        pick = self._random.random()
        if isinstance(value, dict) and value and pick < 0.8:
            key = self._random.choice(list(value))
            act = self._random.random()
            if act < 0.12:
                del value[key]
            elif act < 0.2:
                value[self._word(asker)] = value[key]
            else:
                value[key] = self._spoil(value[key], asker)
            return value
        if isinstance(value, list) and value and pick < 0.8:
            at = self._random.randrange(len(value))
            value[at] = self._spoil(value[at], asker)
            return value
        if isinstance(value, dict) and pick < 0.85:
            value[self._word(asker)] = self._hostile_value(asker)
            return value
        return self._hostile_value(asker)

    def _hostile_value(self, asker: Asker) -> Any:
        if self._random.random() < 0.4:
            return self._word(asker)
        return copy.deepcopy(self._random.choice(VALUES))
