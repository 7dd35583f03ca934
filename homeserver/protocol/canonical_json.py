"""Canonical JSON: the one byte string that stands for a JSON value (spec: appendices#canonical-json).

Hashes and signatures are taken over these bytes, so every server must make the same ones. `encode`
is the fast way and right for every value that `check_value` accepts. Elsewhere (in rooms of versions
before 6, in requests) floats and huge integers are about, and `encode_lenient` writes them as others do.
"""

import json
from typing import Any

import canonicaljson
import orjson

from homeserver.protocol.json_types import JsonObject, JsonValue

MAX_INT = 2**53 - 1

MAX_DEPTH = 250
"""Objects and lists within one another. What is encoded in one go cannot go deeper."""

_OPTIONS = orjson.OPT_SORT_KEYS | orjson.OPT_STRICT_INTEGER


class InvalidJson(ValueError):
    """Not JSON, or JSON that the protocol does not admit."""


def encode(value: JsonValue) -> bytes:
    """The canonical bytes of a value without floats. Raises InvalidJson for what cannot be encoded."""
    try:
        return orjson.dumps(value, option=_OPTIONS)
    except TypeError as error:
        raise InvalidJson(f"not canonical JSON: {error}") from None


def encode_lenient(value: JsonValue) -> bytes:
    """The bytes that are hashed and signed where floats and integers of any size are let in.

    The same as `encode` for all that `check_value` accepts.
    """
    try:
        check_shape(value)
        return encode(value)
    except InvalidJson:
        pass
    try:
        encoded: bytes = canonicaljson.encode_canonical_json(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidJson(f"cannot be encoded: {error}") from None
    return encoded


def check_value(value: JsonValue, *, max_depth: int = MAX_DEPTH) -> None:
    """Raises InvalidJson unless `encode` gives the canonical bytes of this value.

    Refused: floats, integers beyond ±(2^53 - 1), keys that are not strings, lone surrogates, nesting
    deeper than `max_depth` objects and lists, and whatever is no JSON type at all.
    """
    check_shape(value, max_depth=max_depth)
    encode(value)


def check_shape(value: JsonValue, *, max_depth: int = MAX_DEPTH) -> None:
    """The half of `check_value` that encoding does not do: types and depth."""
    level: list[Any] = [value]
    if type(value) is not dict and type(value) is not list:
        level = [[value]]
        max_depth += 1
    depth = 0
    while level:
        depth += 1
        if depth > max_depth:
            raise InvalidJson(f"objects and lists are nested more than {max_depth} deep")
        inner: list[Any] = []
        for container in level:
            for item in container.values() if type(container) is dict else container:
                kind = type(item)
                if kind is str or kind is int:
                    continue
                if kind is dict or kind is list:
                    inner.append(item)
                elif kind is float:
                    raise InvalidJson("numbers must be integers")
                elif kind is not bool and item is not None:
                    raise InvalidJson(f"{kind.__name__} is not a JSON type")
        level = inner


def check_depth(value: JsonObject, *, max_depth: int = MAX_DEPTH) -> None:
    """Raises InvalidJson if objects and lists are nested deeper than `max_depth`; looks at nothing else."""
    level: list[Any] = [value]
    for _ in range(max_depth):
        level = [
            item
            for container in level
            for item in (container.values() if type(container) is dict else container)
            if type(item) is dict or type(item) is list
        ]
        if not level:
            return
    raise InvalidJson(f"objects and lists are nested more than {max_depth} deep")


def loads_strict(data: bytes, *, max_depth: int = MAX_DEPTH) -> JsonObject:
    """Parses the JSON object in `data`.

    Raises InvalidJson if it is not an object, holds a key twice, NaN, an infinity or a lone
    surrogate, or is nested deeper than `max_depth` (`MAX_DEPTH` at most). Floats are left in: not all
    JSON is events.
    """
    value = _loads(data, max_depth)
    if type(value) is not dict:
        raise InvalidJson("not a JSON object")
    return value


def loads_second_strict(data: bytes) -> JsonObject:
    """Parses the object in `data` that is the second of two values in a list, like `loads_strict`."""
    value = _loads(data, MAX_DEPTH)
    if type(value) is not list or len(value) != 2 or type(value[1]) is not dict:
        raise InvalidJson("not a list with a JSON object in the second place")
    return value[1]


def _loads(data: bytes, max_depth: int) -> Any:
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise InvalidJson(f"not JSON: {error}") from None
    max_depth = min(max_depth, MAX_DEPTH)
    if data.count(b"{") + data.count(b"[") > max_depth:
        check_depth(value, max_depth=max_depth)
    _check_keys_unique(data, value)
    return value


def _check_keys_unique(data: bytes, value: Any) -> None:
    """Every member has a colon, in the text as in the value: one that was overwritten is missing there.

    Colons within strings are in both, unless the text writes them as escapes; then it is parsed again,
    slowly, with an eye on each key.
    """
    if b"\\u003" not in data:
        if data.count(b":") != orjson.dumps(value).count(b":"):
            raise InvalidJson("an object has the same key twice")
        return
    json.loads(data.decode(), object_pairs_hook=_unique)


def _unique(pairs: list[tuple[str, Any]]) -> JsonObject:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise InvalidJson("an object has the same key twice")
    return members
