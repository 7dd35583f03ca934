"""X-Matrix: what is signed, and how the header may be written."""

import random

import pytest
from signedjson.key import decode_verify_key_bytes
from signedjson.sign import verify_signed_json
from unpaddedbase64 import decode_base64

from federation.request_auth import (
    Credentials,
    InvalidAuthorization,
    authorization,
    check_destination,
    check_signature,
    parse_authorization,
)
from homeserver.protocol.json_types import JsonObject, JsonValue
from homeserver.protocol.signing import SigningKey, sign_json

KEY = SigningKey.from_seed("a_1", bytes(range(32)))
TARGET = "/_matrix/federation/v1/send/1?a=b%2Fc"
CONTENT = {"pdus": [], "name": "Zoë", "float": 1.5, "big": 2**60}


def header(**changes: object) -> str:
    request: dict[str, object] = {
        "method": "PUT",
        "target": TARGET,
        "origin": "a.example.org:8448",
        "destination": "b.example.org",
        "key": KEY,
        "content": CONTENT,
        **changes,
    }
    return authorization(**request)  # type: ignore[arg-type]


def check(text: str, **changes: object) -> None:
    request: dict[str, object] = {"method": "PUT", "target": TARGET, "content": CONTENT, **changes}
    verify_key = request.pop("verify_key", KEY.verify_key_base64)
    check_signature(parse_authorization(text), verify_key=verify_key, **request)  # type: ignore[arg-type]


def test_the_reference_library_finds_the_signature_right() -> None:
    credentials = parse_authorization(header())
    signed: JsonObject = {
        "method": "PUT",
        "uri": TARGET,
        "origin": "a.example.org:8448",
        "destination": "b.example.org",
        "content": CONTENT,
        "signatures": {"a.example.org:8448": {"ed25519:a_1": credentials.signature}},
    }
    theirs = decode_verify_key_bytes("ed25519:a_1", decode_base64(KEY.verify_key_base64))
    verify_signed_json(signed, "a.example.org:8448", theirs)


def test_the_header_is_written_for_old_servers_too() -> None:
    """spec: server-server#request-authentication: one space, lower-case names, no spaces at commas."""
    credentials = parse_authorization(header())
    assert header() == (
        'X-Matrix origin="a.example.org:8448",destination="b.example.org",'
        f'key="ed25519:a_1",sig="{credentials.signature}"'
    )
    check(header())


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "POST"},
        {"target": TARGET + "&d=e"},
        {"target": "/_matrix/federation/v1/send/1?a=b/c"},
        {"content": {}},
        {"content": None},
        {"content": {**CONTENT, "big": 2**60 + 1}},
        {"verify_key": SigningKey.from_seed("a_1", bytes(32)).verify_key_base64},
        {"verify_key": "AAAA"},
        {"verify_key": "A" * 43},
    ],
)
def test_what_was_not_signed_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(InvalidAuthorization):
        check(header(), **changes)


@pytest.mark.parametrize("content", [None, {}, [], "", 0, {"a": [1, {"b": None}]}])
def test_any_content_is_signed(content: JsonValue) -> None:
    check(header(content=content), content=content)


def test_a_request_for_another_server_is_refused() -> None:
    credentials = parse_authorization(header(destination="c.example.org"))
    check_destination(credentials, "c.example.org")
    for other in ("b.example.org", "C.example.org", "c.example.org:8448"):
        with pytest.raises(InvalidAuthorization, match="another destination"):
            check_destination(credentials, other)


def test_a_server_from_before_destinations_is_let_in() -> None:
    """Without the parameter the destination is not in what is signed."""
    request: JsonObject = {"method": "GET", "uri": "/x", "origin": "a.example.org"}
    signature = sign_json(request, "a.example.org", KEY)["signatures"]["a.example.org"]["ed25519:a_1"]
    credentials = parse_authorization(f'X-Matrix origin=a.example.org,key="ed25519:a_1",sig="{signature}"')
    assert credentials.destination is None
    check_destination(credentials, "b.example.org")
    check_signature(credentials, "GET", "/x", KEY.verify_key_base64)


SAYS = Credentials("a.example.org", "b.example.org", "ed25519:a_1", "c2ln")


@pytest.mark.parametrize(
    "text",
    [
        'X-Matrix origin="a.example.org",destination="b.example.org",key="ed25519:a_1",sig="c2ln"',
        'X-Matrix origin=a.example.org,destination=b.example.org,key="ed25519:a_1",sig=c2ln',
        "X-Matrix origin=a.example.org,destination=b.example.org,key=ed25519:a_1,sig=c2ln",
        "x-mATRIX   Sig=c2ln , KEY=ed25519:a_1\t,\tDestination = b.example.org,origin=a.example.org",
        'X-Matrix ,origin="a.example.org",, destination="b.example.org",key="ed25519:a_1",sig="c2ln",',
        r'X-Matrix origin="a\.example.or\g",destination="b.example.org",key="ed25519\:a_1",sig="c2ln"',
        'X-Matrix origin=a.example.org,destination=b.example.org,key=ed25519:a_1,sig=c2ln,new="a,\\"b=c"',
    ],
)
def test_ways_to_write_the_same(text: str) -> None:
    assert parse_authorization(text) == SAYS


GOOD = 'origin="a.example.org",destination="b.example.org",key="ed25519:a_1",sig="c2ln"'


@pytest.mark.parametrize(
    "text",
    [
        "",
        "X-Matrix",
        "X-Matrix ",
        f"Bearer {GOOD}",
        f"X-Matrix{GOOD}",
        f"X-Matrix {GOOD} sig=again",
        f"X-Matrix {GOOD},sig=again",
        f"X-Matrix {GOOD},origin=c.example.org",
        f"X-Matrix {GOOD},ORIGIN=c.example.org",
        f"X-Matrix {GOOD},new",
        f"X-Matrix {GOOD},=new",
        f'X-Matrix {GOOD},new="open',
        f'X-Matrix {GOOD},new="open\\"',
        f"X-Matrix {GOOD},new=é",
        f"X-Matrix {GOOD},new=" + "a" * 5000,
        'X-Matrix origin="a.example.org"destination="b.example.org",key="ed25519:a_1",sig="c2ln"',
        'X-Matrix destination="b.example.org",key="ed25519:a_1",sig="c2ln"',
        'X-Matrix origin="a.example.org",destination="b.example.org",sig="c2ln"',
        'X-Matrix origin="a.example.org",destination="b.example.org",key="ed25519:a_1"',
        'X-Matrix origin="",key="ed25519:a_1",sig="c2ln"',
        'X-Matrix origin="a b",key="ed25519:a_1",sig="c2ln"',
        'X-Matrix origin="a.example.org/../b",key="ed25519:a_1",sig="c2ln"',
        'X-Matrix origin="999.1.1.1",key="ed25519:a_1",sig="c2ln"',
        'X-Matrix origin="a.example.org",key="rsa:a_1",sig="c2ln"',
        f'X-Matrix origin="a.example.org",key="ed25519:{"a" * 250}",sig="c2ln"',
    ],
)
def test_other_headers_are_refused(text: str) -> None:
    with pytest.raises(InvalidAuthorization):
        parse_authorization(text)


@pytest.mark.parametrize("signature", ["", "c2ln", "!", "A" * 86, "A" * 90, "\N{SNOWMAN}" * 86])
def test_no_signature_is_no_signature(signature: str) -> None:
    credentials = Credentials("a.example.org", "b.example.org", "ed25519:a_1", signature)
    with pytest.raises(InvalidAuthorization):
        check_signature(credentials, "GET", "/", KEY.verify_key_base64)


def test_anything_else_is_read_or_refused() -> None:
    """Seeded: headers that are nearly right, cut, doubled and mixed up."""
    rng = random.Random(7)
    pieces = [*'X-Matrix ="\\,: \t', "origin", "key", "sig", "a.example.org", "ed25519:a", "é", "\0"]
    for _ in range(3000):
        text = f"X-Matrix {GOOD}"
        for _ in range(rng.randrange(4)):
            at = rng.randrange(9, len(text) + 1)
            text = text[:at] + rng.choice(pieces) * rng.randrange(1, 3) + text[at + rng.randrange(3) :]
        try:
            credentials = parse_authorization(text)
        except InvalidAuthorization:
            continue
        assert credentials.key_id.startswith("ed25519:")
        assert " " not in credentials.origin
