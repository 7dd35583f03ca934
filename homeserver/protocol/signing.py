"""Hashes and signatures of JSON and of events (spec: appendices#signing-json, server-server#signing-events).

An event carries two promises. Its *content hash* covers all of it but `hashes`, `signatures` and
`unsigned`; when that does not fit, what was received is a redacted copy or a forgery, and only the
redacted form may be used. Its *signatures*, and its *reference hash* (the event id from room version 3
on), cover the redacted form, so they outlive a redaction.

    InvalidSignature     a signature that must be there is missing or wrong
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass

from nacl.bindings import (
    crypto_sign,
    crypto_sign_BYTES,
    crypto_sign_open,
    crypto_sign_PUBLICKEYBYTES,
    crypto_sign_seed_keypair,
)
from nacl.exceptions import BadSignatureError
from nacl.utils import random as random_bytes

from homeserver.protocol.canonical_json import InvalidJson, encode, encode_lenient
from homeserver.protocol.identifiers import InvalidIdentifier, server_name_of
from homeserver.protocol.json_types import JsonObject
from homeserver.protocol.redaction import redact
from homeserver.protocol.room_versions import EventIdFormat, RoomVersion

ALGORITHM = "ed25519"


class InvalidSignature(ValueError):
    """A signature that is required is missing, malformed, by an unknown key, or wrong."""


def encode_base64(data: bytes) -> str:
    """Unpadded standard Base64."""
    return binascii.b2a_base64(data, newline=False).rstrip(b"=").decode("ascii")


def decode_base64(text: str) -> bytes:
    """Standard or URL-safe Base64, padded or not. Raises ValueError."""
    stripped = text.rstrip("=").replace("-", "+").replace("_", "/")
    return base64.b64decode(stripped + "=" * (-len(stripped) % 4), validate=True)


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A server's secret key with its name, `ed25519:…`."""

    key_id: str
    _public: bytes
    _secret: bytes

    @classmethod
    def from_seed(cls, version: str, seed: bytes) -> "SigningKey":
        """The key `ed25519:<version>` that these 32 secret bytes stand for."""
        public, secret = crypto_sign_seed_keypair(seed)
        return cls(f"{ALGORITHM}:{version}", public, secret)

    @classmethod
    def generate(cls, version: str) -> "SigningKey":
        """A new key from the system's randomness."""
        return cls.from_seed(version, random_bytes(32))

    @property
    def seed(self) -> bytes:
        """The 32 bytes that `from_seed` takes: the secret itself."""
        return self._secret[:32]

    @property
    def verify_key_base64(self) -> str:
        """The public half, as servers publish it."""
        return encode_base64(self._public)

    def sign(self, message: bytes) -> str:
        """The signature, in unpadded Base64."""
        return encode_base64(crypto_sign(message, self._secret)[:crypto_sign_BYTES])

    def __repr__(self) -> str:
        return f"SigningKey({self.key_id!r})"


@dataclass(frozen=True, slots=True)
class VerifyKey:
    """A server's public key, and how long it may be relied upon."""

    key_base64: str
    valid_until_ts: int | None = None
    """Milliseconds; None for no end. For a retired key, the time when it expired."""


ServerKeys = Mapping[str, Mapping[str, VerifyKey]]
"""Server name → key id → key: those that are known."""


# --- JSON -------------------------------------------------------------------------------------------


def sign_json(obj: JsonObject, server_name: str, key: SigningKey) -> JsonObject:
    """A copy of the object with this signature added to those it has. `unsigned` is not covered."""
    return _with_signature(obj, server_name, key, encode_lenient(_signed_part(obj)))


def verify_json_signature(obj: JsonObject, entity: str, key_id: str, verify_key_base64: str) -> None:
    """Raises InvalidSignature unless `entity` signed the object with this key."""
    signature = _signature(obj, entity, key_id)
    try:
        message = encode_lenient(_signed_part(obj))
    except InvalidJson as error:
        raise InvalidSignature(f"the object cannot be checked: {error}") from None
    _verify(message, signature, verify_key_base64, f"the signature of {entity} by {key_id}")


def _with_signature(obj: JsonObject, server_name: str, key: SigningKey, message: bytes) -> JsonObject:
    signatures = obj.get("signatures", {})
    own = {**signatures.get(server_name, {}), key.key_id: key.sign(message)}
    return {**obj, "signatures": {**signatures, server_name: own}}


def _signed_part(obj: JsonObject) -> JsonObject:
    return {key: value for key, value in obj.items() if key != "signatures" and key != "unsigned"}


def _signature(obj: JsonObject, entity: str, key_id: str) -> bytes:
    signatures = obj.get("signatures")
    own = signatures.get(entity) if isinstance(signatures, dict) else None
    text = own.get(key_id) if isinstance(own, dict) else None
    if not isinstance(text, str):
        raise InvalidSignature(f"there is no signature of {entity} by {key_id}")
    try:
        signature = decode_base64(text)
    except ValueError:
        raise InvalidSignature(f"the signature of {entity} by {key_id} is not Base64") from None
    if len(signature) != crypto_sign_BYTES:
        raise InvalidSignature(f"the signature of {entity} by {key_id} is not 64 bytes long")
    return signature


def _verify(message: bytes, signature: bytes, verify_key_base64: str, what: str) -> None:
    try:
        public = decode_base64(verify_key_base64)
    except ValueError:
        raise InvalidSignature(f"{what} cannot be checked: the key is not Base64") from None
    if len(public) != crypto_sign_PUBLICKEYBYTES:
        raise InvalidSignature(f"{what} cannot be checked: the key is not 32 bytes long")
    try:
        crypto_sign_open(signature + message, public)
    except BadSignatureError:
        raise InvalidSignature(f"{what} is wrong") from None


# --- events -----------------------------------------------------------------------------------------


def encode_event(version: RoomVersion, value: JsonObject) -> bytes:
    """The canonical bytes of an event, or of a form of it, as its room version has them."""
    return encode(value) if version.strict_canonical_json else encode_lenient(value)


def content_hash(version: RoomVersion, pdu: JsonObject) -> str:
    """The hash that belongs under `hashes.sha256`."""
    unhashed = {key: value for key, value in pdu.items() if key not in ("hashes", "signatures", "unsigned")}
    return encode_base64(hashlib.sha256(encode_event(version, unhashed)).digest())


def check_content_hash(version: RoomVersion, pdu: JsonObject) -> bool:
    """Whether this is the whole event as its origin hashed it; if not, only its redacted form counts."""
    hashes = pdu.get("hashes")
    claimed = hashes.get("sha256") if isinstance(hashes, dict) else None
    if not isinstance(claimed, str):
        return False
    try:
        return hmac.compare_digest(decode_base64(claimed), decode_base64(content_hash(version, pdu)))
    except ValueError:
        return False


def signed_bytes(version: RoomVersion, pdu: JsonObject) -> bytes:
    """What the signatures of an event sign, and its reference hash hashes."""
    return encode_event(version, _signed_part(redact(version, pdu)))


def sign_event(version: RoomVersion, pdu: JsonObject, server_name: str, key: SigningKey) -> JsonObject:
    """A copy of an event with one more server's signature, as on an invite or a restricted join."""
    return _with_signature(pdu, server_name, key, signed_bytes(version, pdu))


def reference_hash(version: RoomVersion, pdu: JsonObject) -> str:
    """The reference hash in the Base64 that this room version names events by."""
    return hash_text(version, signed_bytes(version, pdu))


def hash_text(version: RoomVersion, data: bytes) -> str:
    """SHA-256, in the unpadded Base64 of the room version."""
    text = encode_base64(hashlib.sha256(data).digest())
    if version.event_id_format is EventIdFormat.URL_SAFE_HASH:
        return text.replace("+", "-").replace("/", "_")
    return text


def event_id_of(version: RoomVersion, pdu: JsonObject) -> str:
    """The id of an event: what it says itself in room versions 1 and 2, else `$` and its reference hash."""
    if version.event_ids_are_hashes:
        return "$" + reference_hash(version, pdu)
    event_id: str = pdu["event_id"]
    return event_id


def required_signers(version: RoomVersion, pdu: JsonObject) -> set[str]:
    """The servers without whose signature the event must not be accepted.

    Raises InvalidSignature if the event does not say who they are.
    """
    content = pdu.get("content")
    content = content if isinstance(content, dict) else {}
    is_member = pdu.get("type") == "m.room.member"
    membership = content.get("membership")
    signers: set[str] = set()
    try:
        # spec: server-server#validating-hashes-and-signatures-on-received-events. An invitation made
        # of a third-party invite may be sent on by another server than the sender's.
        if not (is_member and membership == "invite" and "third_party_invite" in content):
            signers.add(server_name_of(pdu["sender"]))
        if not version.event_ids_are_hashes:
            signers.add(server_name_of(pdu["event_id"]))
        if version.restricted_joins and is_member and "join_authorised_via_users_server" in content:
            signers.add(server_name_of(content["join_authorised_via_users_server"]))
    except (KeyError, AttributeError, InvalidIdentifier):
        raise InvalidSignature("the event does not say which servers must sign it") from None
    return signers


def verify_event_signatures(version: RoomVersion, pdu: JsonObject, keys: ServerKeys) -> None:
    """Raises InvalidSignature unless each of the `required_signers` signed the event.

    Signatures by keys that are not in `keys`, or from room version 5 on had expired when the event
    was made, are passed over. Of the others one at least must be there, and all must be right.
    """
    try:
        message = signed_bytes(version, pdu)
    except InvalidJson as error:
        raise InvalidSignature(f"the event cannot be checked: {error}") from None
    signatures = pdu.get("signatures")
    for server in required_signers(version, pdu):
        own = signatures.get(server) if isinstance(signatures, dict) else None
        checked = 0
        for key_id in own if isinstance(own, dict) else ():
            key = keys.get(server, {}).get(key_id)
            if key is None or not _was_valid(version, key, pdu):
                continue
            signature = _signature(pdu, server, key_id)
            _verify(message, signature, key.key_base64, f"the signature of {server} by {key_id}")
            checked += 1
        if not checked:
            raise InvalidSignature(f"the event is not signed by a known and valid key of {server}")


def verify_event_signature(
    version: RoomVersion, pdu: JsonObject, entity: str, key_id: str, verify_key_base64: str
) -> None:
    """Raises InvalidSignature unless `entity` signed the event with this key."""
    signature = _signature(pdu, entity, key_id)
    try:
        message = signed_bytes(version, pdu)
    except InvalidJson as error:
        raise InvalidSignature(f"the event cannot be checked: {error}") from None
    _verify(message, signature, verify_key_base64, f"the signature of {entity} by {key_id}")


def _was_valid(version: RoomVersion, key: VerifyKey, pdu: JsonObject) -> bool:
    """spec: rooms/v5#signing-key-validity-period."""
    if key.valid_until_ts is None or not version.enforce_key_validity:
        return True
    made = pdu.get("origin_server_ts")
    return isinstance(made, int) and made <= key.valid_until_ts
