"""The X-Matrix signature of a request (spec: server-server#request-authentication).

A server signs method, target, both server names and the content of each request, and sends the signature in
an `Authorization` header. Whether the key that made it is the sender's, only a key ring can tell.
"""

import re
from dataclasses import dataclass

from homeserver.protocol.identifiers import InvalidIdentifier, check_server_name
from homeserver.protocol.json_types import JsonObject, JsonValue
from homeserver.protocol.signing import (
    ALGORITHM,
    InvalidSignature,
    SigningKey,
    sign_json,
    verify_json_signature,
)

SCHEME = "X-Matrix"
MAX_HEADER = 4096
MAX_KEY_ID = 255

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]"
# Older servers leave a value with a colon (a key id, a name with a port) without quotes.
_PARAMETER = re.compile(
    rf"""({_TOKEN}+)[ \t]*=[ \t]*(?:((?:{_TOKEN}|:)+)|"((?:[\t !\x23-\x5b\x5d-\x7e]|\\[\t -\x7e])*)")"""
)
_BETWEEN = re.compile(r"[ \t]*(?:,[ \t]*)*")
_ESCAPED = re.compile(r"\\(.)")


class InvalidAuthorization(ValueError):
    """The request is not signed as it must be; the words are for its sender."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What an X-Matrix header says; nothing of it is proven."""

    origin: str
    destination: str | None
    """None from servers older than version 1.3 of the specification."""
    key_id: str
    signature: str


def authorization(
    method: str, target: str, origin: str, destination: str, key: SigningKey, content: JsonValue = None
) -> str:
    """The header for a request that `origin` sends; `target` is the path with the query, as it is sent."""
    part = _signed_part(method, target, origin, destination, content)
    return f'{SCHEME} origin="{origin}",destination="{destination}",{_signature(part, origin, key)}'


def authorization_at_identity_server(
    method: str, target: str, origin: str, destination: str, key: SigningKey, content: JsonValue
) -> str:
    """The header for a request to an identity server, which need not have a server's name.

    Sydent and Synapse sign `destination_is` in the place of `destination`; the specification says nothing.
    """
    part = {**_signed_part(method, target, origin, None, content), "destination_is": destination}
    return f'{SCHEME} origin="{origin}",{_signature(part, origin, key)}'


def parse_authorization(header: str) -> Credentials:
    """What a header says. Raises InvalidAuthorization.

    spec: RFC 9110, sections 11.4 and 5.6: names in any case, values as tokens or quoted, parameters that are
    not known passed over.
    """
    scheme, _, rest = header.partition(" ")
    if scheme.lower() != SCHEME.lower():
        raise InvalidAuthorization("the request is not signed: it needs an X-Matrix Authorization header")
    if len(header) > MAX_HEADER:
        raise InvalidAuthorization("the Authorization header is too long")
    values = _parameters(rest)
    try:
        origin, key_id, signature = values["origin"], values["key"], values["sig"]
    except KeyError as missing:
        raise InvalidAuthorization(f"the Authorization header has no {missing.args[0]}") from None
    try:
        check_server_name(origin)
    except InvalidIdentifier as error:
        raise InvalidAuthorization(f"origin: {error}") from None
    if len(key_id) > MAX_KEY_ID or not key_id.startswith(f"{ALGORITHM}:"):
        raise InvalidAuthorization(f"the key must be one of {ALGORITHM}")
    return Credentials(origin, values.get("destination"), key_id, signature)


def check_destination(credentials: Credentials, own_name: str) -> None:
    """Raises InvalidAuthorization if the request is for another server."""
    if credentials.destination not in (None, own_name):
        raise InvalidAuthorization("the request is signed for another destination")


def check_signature(
    credentials: Credentials, method: str, target: str, verify_key: str, content: JsonValue = None
) -> None:
    """Raises InvalidAuthorization unless this key made the signature over this request.

    `target` is the request's, byte for byte. `content` is None for a request without a body.
    """
    origin, key_id = credentials.origin, credentials.key_id
    signed: JsonObject = {
        **_signed_part(method, target, origin, credentials.destination, content),
        "signatures": {origin: {key_id: credentials.signature}},
    }
    try:
        verify_json_signature(signed, origin, key_id, verify_key)
    except InvalidSignature as error:
        raise InvalidAuthorization(str(error)) from None


def _signed_part(
    method: str, target: str, origin: str, destination: str | None, content: JsonValue
) -> JsonObject:
    part: JsonObject = {"method": method, "uri": target, "origin": origin}
    if destination is not None:
        part["destination"] = destination
    if content is not None:
        part["content"] = content
    return part


def _signature(part: JsonObject, origin: str, key: SigningKey) -> str:
    """The end of a header: by which key, and how."""
    signature = sign_json(part, origin, key)["signatures"][origin][key.key_id]
    return f'key="{key.key_id}",sig="{signature}"'


def _parameters(text: str) -> dict[str, str]:
    values: dict[str, str] = {}
    at = _after_separator(text, 0)
    while at < len(text):
        found = _PARAMETER.match(text, at)
        if found is None:
            raise InvalidAuthorization("the Authorization header is malformed")
        name, token, quoted = found.groups()
        name = name.lower()
        if name in values:
            raise InvalidAuthorization(f"the Authorization header has {name} twice")
        values[name] = token if token is not None else _ESCAPED.sub(r"\1", quoted)
        at = _after_separator(text, found.end())
        if at < len(text) and "," not in text[found.end() : at]:
            raise InvalidAuthorization("the Authorization header is malformed")
    return values


def _after_separator(text: str, at: int) -> int:
    """Where the next parameter begins; a list may have empty elements (RFC 9110, 5.6.1)."""
    found = _BETWEEN.match(text, at)
    assert found is not None, "it matches nothing, too"
    return found.end()
