"""Requests that no honest client sends, from a seed: the same seed makes the same requests.

A request begins as a plausible one for its route (path from names of the fixture's world, query and body
from the specification where that lies beside the repository) and is then spoilt in a few places. One
that is wrong everywhere is refused at the first look and shows nothing.
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

PARAMETER = re.compile(r"\{(\w+)(?::(?:[^{}]|\{\})*)?\}")
MAX_QUERY = 6000
"""Longer request lines are refused before there is a route to answer."""
R0 = "/_matrix/client/r0/"

WORDS: Sequence[str] = (
    "",
    " ",
    "0",
    "-1",
    "1.5",
    "true",
    "null",
    "undefined",
    ".",
    "..",
    "../../../etc/passwd",
    "%",
    "%00",
    "a/b",
    "a\x00b",
    "\x00",
    "\r\nX-Injected: 1",
    "\x7f\x1b[31m",
    "*",
    "?",
    "#",
    "$",
    "!",
    "@",
    ":",
    "@:",
    "!:",
    "$:",
    "#:",
    "@a:",
    "@:localhost",
    "@a b:localhost",
    "@ä:localhost",
    "@A:localhost",
    "@nobody:localhost",
    "@nobody:elsewhere.example",
    "@x:localhost:99999",
    "@x:[::1]",
    "!none:localhost",
    "!none:elsewhere.example",
    "!none",
    "$none",
    "$none:elsewhere.example",
    "#none:localhost",
    "#none:elsewhere.example",
    "m.room.member",
    "m.room.create",
    "m.room.power_levels",
    "m.room.encrypted",
    "m.room.redaction",
    "m.push_rules",
    "m.fully_read",
    "m.tag",
    "b",
    "f",
    "__proto__",
    "constructor",
    "'; DROP TABLE events; --",
    "{}",
    "[]",
    "\U0001f9f5",
    "\u202e\u0000\ufffe",
    "\u0130\u00df\ufb03",
    "e\u0301",
    "x" * 255,
    "x" * 256,
    "x" * 300,
    "@" + "x" * 300 + ":localhost",
    "!" + "x" * 300,
    "\u00e4" * 200,
    "9" * 30,
    "1e400",
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775809",
    "18446744073709551616",
    "\u0663",
    "mxc://localhost/none",
    "http://127.0.0.1:1/",
    '{"a":' + "[" * 500,
    '{"room":' * 120 + "0" + "}" * 120,
    '{"room":{"timeline":{"limit":-1}}}',
)

RAW_PATHS: Sequence[str] = ("%FF", "%C0%AF", "%ED%A0%80", "%2e%2e", "%2F", "%5C", "%", "%zz", "+", "a;b=c")
"""Percent-encodings that no decoder of UTF-8 takes, or that a careless one takes for something else."""

NUMBERS: Sequence[Any] = (
    0,
    -1,
    1,
    1.5,
    -0.0,
    1e308,
    2**31,
    2**53 - 1,
    2**53,
    2**63 - 1,
    2**63,
    2**64,
    -(2**63),
    -(2**64),
    10**25,
)


def nested(depth: int, inner: Any = 0) -> Any:
    """Objects and lists within one another."""
    for level in range(depth):
        inner = {"a": inner} if level % 2 else [inner]
    return inner


VALUES: Sequence[Any] = (
    None,
    True,
    False,
    *NUMBERS,
    "",
    [],
    {},
    [[]],
    [None],
    [{}],
    [1, "a", None],
    {"": ""},
    {"a": None},
    {"@nobody:localhost": {}},
    {"@nobody:localhost": []},
    {"*": "*"},
    nested(10),
    nested(90),
    nested(110),
    nested(260),
    ["x"] * 5000,
    {f"k{number}": number for number in range(3000)},
    "x" * 70_000,
)

RAW_BODIES: Sequence[bytes] = (
    b"",
    b" ",
    b"null",
    b"true",
    b"0",
    b'""',
    b"[]",
    b"[{}]",
    b"{",
    b"}",
    b"{}{}",
    b"{} x",
    b"\xef\xbb\xbf{}",
    b"\xff\xfe{\x00}\x00",
    b"{'a': 1}",
    b'{"a": NaN}',
    b'{"a": Infinity}',
    b'{"a": 1e999}',
    b'{"a": 01}',
    b'{"a": 1,}',
    b'{"a": "\xff"}',
    b'{"a": "\xed\xa0\x80"}',
    b'{"a": "\\ud800"}',
    b'{"\\ud800": 1}',
    b'{"a": "\\u0000"}',
    b'{"a": 1, "a": 2}',
    b'{"a": ' + b"9" * 5000 + b"}",
    b'{"a": ' + b"[" * 1000 + b"]" * 1000 + b"}",
    b'{"a":' * 1000 + b"1" + b"}" * 1000,
    b"[" * 100_000,
    b'{"a":' * 20_000,
    b"--x\r\nContent-Disposition: form-data; name=a\r\n\r\n{}\r\n--x--\r\n",
    b"<xml/>",
    b"\x00" * 1000,
)

CONTENT_TYPES: Sequence[str] = (
    "",
    "text/plain",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "multipart/form-data",
    "application/json; charset=utf-16",
    "application/json; charset=no-such-charset",
    "x" * 300,
)

CODINGS: Sequence[str] = ("deflate", "br", "zstd", "identity", "x", "gzip, gzip")
TOKENS: Sequence[str] = (
    "Bearer ",
    "Bearer x",
    "bearer x",
    "Basic eDp5",
    "Bearer " + "x" * 5000,
    "Bearer \u00e4",
)


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
WAITING = ("timeout", "timeout_ms")
"""How long to wait for something is up to the client: with a large number here an answer takes as long."""


def specified(route: Route) -> Specified:
    """The names of the query parameters and an example of the body; guesses in a bare clone."""
    path = PARAMETER.sub("x", route.path.replace(R0, "/_matrix/client/v3/"))
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


class Hostile:
    """Makes requests. `names` gives plausible values of path parameters, and of anything in bodies."""

    def __init__(self, seed: int, names: Mapping[str, Sequence[str]]) -> None:
        self._random = random.Random(seed)
        self.names = names
        self._known: dict[tuple[str, str], Specified] = {}
        self._numbered = 0

    def request(self, route: Route) -> Request:
        """A request to this route with something wrong in it, most likely."""
        chance = self._random.random
        key = route.method, route.path
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = specified(route)
        spoil_path, spoil_query = chance() < 0.25, chance() < 0.4
        path = PARAMETER.sub(lambda found: self._segment(found[1], spoil_path), route.path)
        query = self._query(known.query, spoil_query)
        headers: dict[str, str] = {}
        body = None
        if route.method in ("PUT", "POST", "DELETE") or chance() < 0.05:
            body = self._body(known.body, headers)
        if chance() < 0.05:
            headers["Content-Type"] = self._random.choice(CONTENT_TYPES)
        return Request(route.method, path + query, headers, body)

    def _segment(self, name: str, spoil: bool) -> str:
        if spoil and self._random.random() < 0.7:
            if self._random.random() < 0.15:
                return self._random.choice(RAW_PATHS)
            return quote(self._word(), safe="")
        return quote(self._plausible(name), safe="")

    def _word(self) -> str:
        if self._random.random() < 0.2:
            return self._plausible(self._random.choice(sorted(self.names)))
        return self._random.choice(WORDS)

    def _plausible(self, name: str) -> str:
        if name == "txn_id":
            self._numbered += 1
            return f"fuzz{self._numbered}"
        return self._random.choice(self.names.get(name) or self.names["text"])

    def _query(self, names: Sequence[str], spoil: bool) -> str:
        pairs: list[tuple[str, str]] = []
        for name in names:
            if name in WAITING:
                pairs.append((name, self._random.choice(("0", "", "x", "-1")) if spoil else "0"))
            elif spoil and self._random.random() < 0.5:
                pairs.append((name, self._word()))
            elif self._random.random() < 0.3 and name in self.names:
                pairs.append((name, self._plausible(name)))
        if spoil and self._random.random() < 0.1:
            pairs += pairs
        while len(text := urlencode(pairs)) > MAX_QUERY:
            pairs.pop()
        return "?" + text if text else ""

    def _body(self, example: Any, headers: dict[str, str]) -> bytes:
        kind = self._random.random()
        if kind < 0.15:
            body = self._random.choice(RAW_BODIES)
        else:
            value = self._fill(copy.deepcopy(example if example is not None else {}))
            if kind < 0.9:
                for _ in range(self._random.choice((1, 1, 2, 4))):
                    value = self._spoil(value)
            body = json.dumps(value).encode()
        coding = self._random.random()
        if coding < 0.03:
            headers["Content-Encoding"] = "gzip"
            body = gzip.compress(body, mtime=0)
            if coding < 0.01:
                body = body[: len(body) // 2]
        elif coding < 0.05:
            headers["Content-Encoding"] = self._random.choice(
                ("deflate", "br", "zstd", "identity", "x", "gzip, gzip")
            )
            body = zlib.compress(body)
        return body

    def _fill(self, value: Any) -> Any:
        """The examples' identifiers, replaced by ones that exist here."""
        if isinstance(value, dict):
            return {self._fill_text(key): self._fill(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [self._fill(inner) for inner in value]
        return self._fill_text(value) if isinstance(value, str) else value

    def _fill_text(self, text: str) -> str:
        name = {"@": "user_id", "!": "room_id", "$": "event_id", "#": "alias"}.get(text[:1])
        return self._plausible(name) if name is not None and self._random.random() < 0.8 else text

    def _spoil(self, value: Any) -> Any:
        """Something else at one place: another value, a key more, a key less."""
        pick = self._random.random()
        if isinstance(value, dict) and value and pick < 0.8:
            key = self._random.choice(list(value))
            act = self._random.random()
            if act < 0.12:
                del value[key]
            elif act < 0.2:
                value[self._word()] = value[key]
            else:
                value[key] = self._spoil(value[key])
            return value
        if isinstance(value, list) and value and pick < 0.8:
            at = self._random.randrange(len(value))
            value[at] = self._spoil(value[at])
            return value
        if isinstance(value, dict) and pick < 0.85:
            value[self._word()] = self._hostile_value()
            return value
        return self._hostile_value()

    def _hostile_value(self) -> Any:
        if self._random.random() < 0.4:
            return self._word()
        return copy.deepcopy(self._random.choice(VALUES))
