"""Keys as clients upload them: what they must look like, and whose signatures they carry.

Functions of values. What passes here is shown to other users and sent to other servers, so it is held
to canonical JSON and to sizes that cannot choke anybody.

spec: client-server "Key algorithms", "Device keys", "Cross-signing"
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import orjson

from homeserver.errors import MatrixError, bad_json, invalid_param, too_large
from homeserver.protocol.canonical_json import InvalidJson, check_shape, check_value, encode
from homeserver.protocol.json_types import JsonObject, JsonValue
from homeserver.protocol.signing import InvalidSignature, decode_base64, verify_json_signature

MAX_OBJECT_BYTES = 16 * 1024
"""Of a device's or a cross-signing key's JSON; a usual one has about 1,000."""
MAX_DEPTH = 6
"""Of objects and lists; those of the specification are three deep."""
MAX_NAME_BYTES = 255
MAX_USUAL_NAME = MAX_NAME_BYTES // 4
"""Characters, of up to four bytes."""
MAX_ALGORITHMS = 50

MAX_ONE_TIME_KEYS = 150
"""In one upload, and unclaimed of one algorithm of one device; clients keep 50."""
MAX_ONE_TIME_KEY_BYTES = 4 * 1024
MAX_FALLBACK_KEYS = 10

PUBLIC_KEY_BYTES = 32
PUBLIC_KEY_LENGTH, SIGNATURE_LENGTH = 43, 86
"""Of those that are usual, as Base64."""

MASTER, SELF_SIGNING, USER_SIGNING = "master", "self_signing", "user_signing"
USAGES = (MASTER, SELF_SIGNING, USER_SIGNING)


if TYPE_CHECKING:
    KeyPart = Any
else:

    def _nested(depth: int) -> type:
        scalar = None | bool | int | str
        inner = _nested(depth - 1) if depth else scalar
        return scalar | list[inner] | dict[str, inner] if depth else scalar

    KeyPart = _nested(MAX_DEPTH - 1)
    """What stands in a key object: JSON without floats, nested so deep at most. Its decoder sees to that."""


ShortKey = tuple[str, str, str]
"""A key in short: its id, its public key and its device's signature, if it has nothing else, as nearly all;
any other is its id, its canonical JSON and ""."""


class NamedKey(msgspec.Struct, frozen=True, gc=False):
    """A one-time or fallback key; `json` is the key object (or string) as canonical JSON."""

    algorithm: str
    key_id: str
    json: bytes

    @property
    def name(self) -> str:
        return f"{self.algorithm}:{self.key_id}"


class CrossSigningKey(NamedTuple):
    """A cross-signing key's JSON with its one public key, and the id under which it signs."""

    json: JsonObject
    public_key: str

    @property
    def key_id(self) -> str:
        return f"ed25519:{self.public_key}"


def check_device_keys(keys: JsonObject, user_id: str, device_id: str) -> JsonObject:
    """The identity keys of this very device, without `unsigned` and without other users' signatures.

    Raises 400 for a wrong shape or owner. Whether the device's own signature is right is for those to
    check who encrypt for it: they trust no server with that.
    """
    _check_canonical(keys, "device_keys")
    if keys.get("user_id") != user_id:
        raise invalid_param("device_keys: user_id is not yours")
    if keys.get("device_id") != device_id:
        raise invalid_param("device_keys: device_id is not that of this session")
    _check_strings(keys.get("algorithms"), "device_keys: algorithms")
    public_keys = keys.get("keys")
    if not isinstance(public_keys, dict) or not public_keys:
        raise bad_json("device_keys: keys must be an object that is not empty")
    for name, public_key in public_keys.items():
        algorithm, colon, owner = name.partition(":")
        if not algorithm or not colon or owner != device_id or not isinstance(public_key, str):
            raise bad_json("device_keys: keys must be strings named algorithm:device_id")
        if algorithm in ("ed25519", "curve25519"):
            _check_public_key(public_key, f"device_keys: {algorithm}")
    return {**body_of(keys), "signatures": {user_id: signatures_by(keys, user_id)}}


def check_cross_signing_key(key: JsonObject, usage: str, user_id: str) -> CrossSigningKey:
    """A user's key for this usage. Signatures are only checked for their shape. Raises 400."""
    what = f"{usage}_key"
    _check_canonical(key, what)
    if key.get("user_id") != user_id:
        raise invalid_param(f"{what}: user_id is not yours")
    usages = key.get("usage")
    if not isinstance(usages, list) or usage not in usages:
        raise bad_json(f"{what}: usage does not say {usage}")
    _check_strings(usages, f"{what}: usage")
    public_keys = key.get("keys")
    if not isinstance(public_keys, dict) or len(public_keys) != 1:
        raise bad_json(f"{what}: there must be exactly one key")
    ((name, public_key),) = public_keys.items()
    if not isinstance(public_key, str) or name != f"ed25519:{public_key}":
        raise bad_json(f"{what}: the key must be named ed25519: and itself")
    _check_public_key(public_key, what)
    signatures_by(key, user_id)
    return CrossSigningKey(key, public_key)


def check_named_keys(keys: Mapping[str, Any], what: str, *, most: int) -> list[NamedKey]:
    """One-time or fallback keys by `algorithm:key_id`. Raises 400."""
    try:
        check_shape(dict(keys), max_depth=MAX_DEPTH)
    except InvalidJson as error:
        raise bad_json(f"{what}: {error}") from None
    return named_keys(keys, what, most=most)


def named_keys(keys: Mapping[str, KeyPart], what: str, *, most: int) -> list[NamedKey]:
    """What `check_named_keys` gives, of keys that were decoded as `KeyPart`s."""
    _check_count(keys, what, most)
    return [_named_key(name, key, what) for name, key in keys.items()]


def short_keys(
    keys: Mapping[str, KeyPart], what: str, user_id: str, device_id: str, *, most: int
) -> dict[str, dict[str, ShortKey]]:
    """The keys that a device uploads, decoded as `KeyPart`s, by algorithm and key id. Raises 400."""
    _check_count(keys, what, most)
    signer = f"ed25519:{device_id}"
    short: dict[str, dict[str, ShortKey]] = {}
    # Fifty keys come with each upload, so that this loop is a good part of what it costs.
    for name, key in keys.items():
        algorithm, _, key_id = name.partition(":")
        try:
            signatures = key["signatures"]
            by_owner = signatures[user_id]
            public_key, signature = key["key"], by_owner[signer]
            is_usual = (
                len(key) == 2
                and len(signatures) == len(by_owner) == 1
                and len(public_key) == PUBLIC_KEY_LENGTH
                and len(signature) == SIGNATURE_LENGTH
                and type(public_key) is type(signature) is str
                and len(name) <= MAX_USUAL_NAME
            )
        except (KeyError, TypeError):
            is_usual = False
        if not is_usual or not algorithm or not key_id:
            public_key, signature = _named_key(name, key, what).json.decode(), ""
        of_algorithm = short.get(algorithm)
        if of_algorithm is None:
            of_algorithm = short[algorithm] = {}
        of_algorithm[key_id] = key_id, public_key, signature
    return short


def long_key(user_id: str, device_id: str, key: ShortKey) -> bytes:
    """The canonical JSON of what a device uploaded."""
    _, public_key, signature = key
    if not signature:
        return public_key.encode()
    return encode({"key": public_key, "signatures": {user_id: {f"ed25519:{device_id}": signature}}})


def _check_count(keys: Mapping[str, object], what: str, most: int) -> None:
    if len(keys) > most:
        raise too_many(f"{what}: at most {most} keys at once")


def _named_key(name: str, key: JsonValue, what: str) -> NamedKey:
    """Raises 400."""
    algorithm, _, key_id = name.partition(":")
    if not algorithm or not key_id or len(name.encode()) > MAX_NAME_BYTES:
        raise bad_json(f"{what}: {name[:MAX_NAME_BYTES]!r} is not algorithm:key_id")
    if algorithm.startswith("signed_"):
        if not isinstance(key, dict) or not isinstance(key.get("key"), str):
            raise bad_json(f"{what}: {name} must be an object with a key")
        if not isinstance(key.get("signatures"), dict):
            raise bad_json(f"{what}: {name} must be signed")
    elif not isinstance(key, (str, dict)):
        raise bad_json(f"{what}: {name} must be a string or an object")
    try:
        json = encode(key)
    except InvalidJson as error:
        raise bad_json(f"{what}: {error}") from None
    if len(json) > MAX_ONE_TIME_KEY_BYTES:
        raise too_large(f"{what}: {name} has more than {MAX_ONE_TIME_KEY_BYTES} bytes")
    return NamedKey(algorithm, key_id, json)


def body_of(key: JsonObject) -> JsonObject:
    """What signatures are taken over: all but `signatures` and `unsigned`."""
    return {name: value for name, value in key.items() if name not in ("signatures", "unsigned")}


def signatures_by(key: JsonObject, user_id: str) -> dict[str, str]:
    """A user's signatures on an object, by the id of the key that made them. Raises 400 for another shape."""
    signatures = key.get("signatures", {})
    if not isinstance(signatures, dict):
        raise bad_json("signatures must be an object")
    own = signatures.get(user_id, {})
    if not isinstance(own, dict) or not all(isinstance(signature, str) for signature in own.values()):
        raise bad_json("signatures must be strings by user and key")
    return own


def with_signatures(key: JsonObject, user_id: str, signatures: Mapping[str, str]) -> JsonObject:
    """The object with these signatures of a user added to those it has."""
    present = key.get("signatures", {})
    return {**key, "signatures": {**present, user_id: {**present.get(user_id, {}), **signatures}}}


def verify(key: JsonObject, user_id: str, signer: str, public_key: str) -> None:
    """Raises 400 M_INVALID_SIGNATURE unless the user's key `signer` signed the object."""
    try:
        verify_json_signature(key, user_id, signer, public_key)
    except InvalidSignature as error:
        raise invalid_signature(str(error)) from None


def invalid_signature(error: str) -> MatrixError:
    return MatrixError(400, "M_INVALID_SIGNATURE", error)


def too_many(error: str) -> MatrixError:
    return MatrixError(400, "M_TOO_LARGE", error)


def _check_canonical(key: JsonObject, what: str) -> None:
    try:
        check_value(key, max_depth=MAX_DEPTH)
    except InvalidJson as error:
        raise bad_json(f"{what}: {error}") from None
    if len(orjson.dumps(key)) > MAX_OBJECT_BYTES:
        raise too_large(f"{what}: more than {MAX_OBJECT_BYTES} bytes")


def _check_strings(value: object, what: str) -> None:
    if not isinstance(value, list) or len(value) > MAX_ALGORITHMS or not _all_strings(value):
        raise bad_json(f"{what} must be a list of at most {MAX_ALGORITHMS} strings")


def _all_strings(values: Iterable[object]) -> bool:
    return all(isinstance(value, str) for value in values)


def _check_public_key(public_key: str, what: str) -> None:
    try:
        size = len(decode_base64(public_key))
    except ValueError:
        size = 0
    if size != PUBLIC_KEY_BYTES:
        raise bad_json(f"{what}: not the Base64 of {PUBLIC_KEY_BYTES} bytes")
