"""What a server says of its keys, and what is to be believed of it (spec: server-server#publishing-keys)."""

import re

import msgspec
import orjson

from homeserver.protocol.json_types import JsonObject
from homeserver.protocol.signing import InvalidSignature, decode_base64, verify_json_signature
from storage.records.remote_keys import RemoteKey, RemoteKeys

MAX_KEYS = 32
"""Kept per server, and in one answer."""
MOST_VALID_MS = 7 * 24 * 3600 * 1000
"""However long a key is to hold by what its server says."""
KEY_BYTES = 32

WEAK_KEYS = frozenset(
    # Made alike by faulty tools at many servers, so anybody has the secret half (CVE-2026-24044).
    decode_base64(key)
    for key in ("l/O9hxMVKB6Lg+3Hqf0FQQZhVESQcMzbPN1Cz2nM3og",)
)

_KEY_ID = re.compile(r"ed25519:[0-9A-Za-z_.+/=-]{1,247}")
"""As long as any identifier may be: some servers name a key by all of its bytes."""


class InvalidKeys(ValueError):
    """The answer does not prove any key."""


def read_keys(answer: JsonObject, server_name: str, now: int) -> RemoteKeys:
    """The keys in the answer of a server, to whichever it was given. Raises InvalidKeys.

    One signature at least must be by a key in the answer, and all of those must be right. Keys that are weak
    or malformed, or of an unknown algorithm, are passed over. A key that is called old as well is old.
    """
    if answer.get("server_name") != server_name:
        raise InvalidKeys("the keys are those of another server")
    valid_until = answer.get("valid_until_ts")
    if type(valid_until) is not int:
        raise InvalidKeys("the answer does not say how long it holds")
    valid_until = min(valid_until, now + MOST_VALID_MS)
    old = {
        key_id: RemoteKey(key_id, key["key"], min(key["expired_ts"], now), current=False)
        for key_id, key in _usable(answer.get("old_verify_keys")).items()
        if type(key.get("expired_ts")) is int
    }
    current = {
        key_id: RemoteKey(key_id, key["key"], valid_until, current=True)
        for key_id, key in _usable(answer.get("verify_keys")).items()
        if key_id not in old
    }
    _check_signed(answer, server_name, current)
    keys = (*current.values(), *old.values())[:MAX_KEYS]
    return RemoteKeys(
        server_name=server_name,
        keys=keys,
        fetched_ts=now,
        valid_until=valid_until,
        answer=orjson.dumps(answer),
    )


def contradicts(keys: RemoteKeys, others: RemoteKeys) -> bool:
    """Whether two answers have different keys under one name."""
    known = {key.key_id: key.verify_key for key in others.keys}
    return any(known.get(key.key_id, key.verify_key) != key.verify_key for key in keys.keys)


def with_earlier(keys: RemoteKeys, before: RemoteKeys) -> RemoteKeys:
    """With the keys that the server has dropped since: they are still good for what they signed."""
    named = {key.key_id for key in keys.keys}
    dropped = [
        RemoteKey(key.key_id, key.verify_key, key.valid_until, current=False)
        for key in before.keys
        if key.key_id not in named
    ]
    dropped.sort(key=lambda key: -key.valid_until)
    return msgspec.structs.replace(keys, keys=(*keys.keys, *dropped)[:MAX_KEYS])


def _usable(keys: object) -> dict[str, JsonObject]:
    return {
        key_id: key
        for key_id, key in (keys.items() if isinstance(keys, dict) else ())
        if _KEY_ID.fullmatch(key_id) and isinstance(key, dict) and _is_sound(key.get("key"))
    }


def _is_sound(key: object) -> bool:
    try:
        public = decode_base64(key) if isinstance(key, str) else b""
    except ValueError:
        return False
    return len(public) == KEY_BYTES and public not in WEAK_KEYS


def _check_signed(answer: JsonObject, server_name: str, keys: dict[str, RemoteKey]) -> None:
    signatures = answer.get("signatures")
    own = signatures.get(server_name) if isinstance(signatures, dict) else None
    signed_by = [key for key_id, key in keys.items() if isinstance(own, dict) and key_id in own]
    if not signed_by:
        raise InvalidKeys("the answer is not signed by a key in it")
    try:
        for key in signed_by[:MAX_KEYS]:
            verify_json_signature(answer, server_name, key.key_id, key.verify_key)
    except InvalidSignature as error:
        raise InvalidKeys(str(error)) from None
