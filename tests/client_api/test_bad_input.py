"""Requests that are wrong in one way, and the error that each of them gets. None of them changes anything.

Errcodes are the specification's where it names one; where it does not, what clients have come to expect.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest

from tests.client_api.conftest import Client, Server

Body = dict[str, Any] | list[Any] | str | int | bytes | None


class Case(NamedTuple):
    """`who` asks; `{R}` and the like in the path stand for what the scene has (see `scene`)."""

    who: str
    request: str
    body: Body
    status: int
    errcode: str


LONG = "x" * 256
BIG = "x" * 66_000
DEEP: Any = {}
for _ in range(120):
    DEEP = {"a": DEEP}

MESSAGE = {"msgtype": "m.text", "body": "hello"}
BY_MAIL = {
    "id_server": "identity.example",
    "id_access_token": "token",
    "medium": "email",
    "address": "carol@mail.example",
}
PROOF = {"sender": "@alice:localhost", "mxid": "@bob:localhost", "token": "t", "signatures": {}}
"""Of an identity server, that an address belongs to a user."""

TABLE: Mapping[str, Sequence[Case]] = {
    "any endpoint": [
        Case("nobody", "GET /sync", None, 401, "M_MISSING_TOKEN"),
        Case("forger", "GET /sync", None, 401, "M_UNKNOWN_TOKEN"),
        Case("alice", "GET /no/such/endpoint", None, 404, "M_UNRECOGNIZED"),
        Case("nobody", "GET /no/such/endpoint", None, 404, "M_UNRECOGNIZED"),
        Case("alice", "DELETE /createRoom", None, 405, "M_UNRECOGNIZED"),
        Case("alice", "POST /createRoom", b"{", 400, "M_NOT_JSON"),
        Case("alice", "POST /createRoom", b"\xff", 400, "M_NOT_JSON"),
        Case("alice", "POST /createRoom", b'{"name": NaN}', 400, "M_NOT_JSON"),
        Case("alice", "POST /createRoom", b'{"name": "\\ud800"}', 400, "M_NOT_JSON"),
        Case("alice", "POST /createRoom", [], 400, "M_BAD_JSON"),
        Case("alice", "POST /createRoom", "text", 400, "M_BAD_JSON"),
        Case("alice", "POST /createRoom", b"null", 400, "M_BAD_JSON"),
        Case("alice", "POST /createRoom", {"creation_content": DEEP}, 400, "M_BAD_JSON"),
        Case("alice", "POST /createRoom", b" " * 3_000_000, 413, "M_TOO_LARGE"),
    ],
    "creating a room": [
        Case("alice", "POST /createRoom", {"name": 1}, 400, "M_BAD_JSON"),
        Case("alice", "POST /createRoom", {"preset": "no_such"}, 400, "M_BAD_JSON"),
        Case("alice", "POST /createRoom", {"visibility": "no_such"}, 400, "M_BAD_JSON"),
        Case("alice", "POST /createRoom", {"invite_3pid": [BY_MAIL]}, 400, "M_SERVER_NOT_TRUSTED"),
        Case("alice", "POST /createRoom", {"room_version": "no"}, 400, "M_UNSUPPORTED_ROOM_VERSION"),
        Case("alice", "POST /createRoom", {"room_version": 12}, 400, "M_BAD_JSON"),
        Case("alice", "POST /createRoom", {"room_alias_name": "taken"}, 400, "M_ROOM_IN_USE"),
        Case("alice", "POST /createRoom", {"room_alias_name": "a\x00b"}, 400, "M_INVALID_PARAM"),
        Case("alice", "POST /createRoom", {"room_alias_name": "a:b"}, 400, "M_INVALID_PARAM"),
        Case("alice", "POST /createRoom", {"room_alias_name": ""}, 400, "M_INVALID_PARAM"),
        Case("alice", "POST /createRoom", {"room_alias_name": LONG}, 400, "M_INVALID_PARAM"),
        Case("alice", "POST /createRoom", {"invite": ["bob"]}, 400, "M_INVALID_PARAM"),
        Case("alice", "POST /createRoom", {"invite": "@bob:localhost"}, 400, "M_BAD_JSON"),
        Case("alice", "POST /createRoom", {"initial_state": [{"type": "a"}]}, 400, "M_MISSING_PARAM"),
        Case("alice", "POST /createRoom", {"initial_state": {"type": "a"}}, 400, "M_BAD_JSON"),
        Case("alice", "POST /createRoom", {"name": BIG}, 413, "M_TOO_LARGE"),
        Case("alice", "POST /createRoom", {"creation_content": {"topic": BIG}}, 413, "M_TOO_LARGE"),
        Case("alice", "POST /createRoom", {"creation_content": []}, 400, "M_BAD_JSON"),
        Case(
            "alice",
            "POST /createRoom",
            {"power_level_content_override": {"users": {"bob": 1}}},
            400,
            "M_INVALID_ROOM_STATE",
        ),
        Case(
            "alice",
            "POST /createRoom",
            {"power_level_content_override": {"events": {"m.room.name": "50"}}},
            400,
            "M_INVALID_ROOM_STATE",
        ),
        Case(
            "alice",
            "POST /createRoom",
            {"room_version": "11", "power_level_content_override": {"users": {"{alice}": 0}}, "name": "a"},
            400,
            "M_INVALID_ROOM_STATE",
        ),
    ],
    "sending": [
        Case("carol", "PUT /rooms/{R}/send/m.room.message/1", MESSAGE, 403, "M_FORBIDDEN"),
        Case("alice", "PUT /rooms/{N}/send/m.room.message/1", MESSAGE, 403, "M_FORBIDDEN"),
        Case("alice", "PUT /rooms/nonsense/send/m.room.message/1", MESSAGE, 403, "M_FORBIDDEN"),
        Case("alice", "PUT /rooms/{R}/send/m.room.message/1", b"", 400, "M_NOT_JSON"),
        Case("alice", "PUT /rooms/{R}/send/m.room.message/1", [], 400, "M_BAD_JSON"),
        Case("alice", "PUT /rooms/{R}/send/m.room.message/1", {**MESSAGE, "body": BIG}, 413, "M_TOO_LARGE"),
        Case("alice", "PUT /rooms/{R}/send/m.room.message/1", {"body": "hello"}, 400, "M_BAD_JSON"),
        Case("alice", "PUT /rooms/{R}/send/m.room.message/1", {"msgtype": "m.text"}, 400, "M_BAD_JSON"),
        Case("alice", "PUT /rooms/{R}/send/m.room.message/1", {**MESSAGE, "body": 1}, 400, "M_BAD_JSON"),
        Case("alice", "PUT /rooms/{R}/send/m.room.message/1", {"a": 1.5}, 400, "M_BAD_JSON"),
        Case("alice", "PUT /rooms/{R}/send/m.room.message/1", {"a": 2**53}, 400, "M_BAD_JSON"),
        Case("alice", "PUT /rooms/{R}/send/m.room.message/1", {"a": 10**30}, 400, "M_BAD_JSON"),
        Case("alice", "PUT /rooms/{R}/send/m.room.message/1", {"a": DEEP}, 400, "M_BAD_JSON"),
        Case("alice", f"PUT /rooms/{{R}}/send/{LONG}/1", {}, 413, "M_TOO_LARGE"),
        Case("bob", "PUT /rooms/{R}/send/org.example.high/1", {}, 403, "M_FORBIDDEN"),
        Case("alice", "PUT /rooms/{R}/redact/{N}/1", {}, 404, "M_NOT_FOUND"),
        Case("alice", "PUT /rooms/{R}/redact/$none/1", {}, 404, "M_NOT_FOUND"),
        Case("alice", "PUT /rooms/{R}/redact/{X}/1", {}, 404, "M_NOT_FOUND"),
        Case("bob", "PUT /rooms/{R}/redact/{E}/1", {}, 403, "M_FORBIDDEN"),
        Case("carol", "PUT /rooms/{R}/redact/{E}/1", {}, 403, "M_FORBIDDEN"),
        Case("alice", "PUT /rooms/{R}/redact/{E}/1", {"reason": 1}, 400, "M_BAD_JSON"),
        Case(
            "alice",
            "PUT /rooms/{R}/send/m.reaction/1",
            {"m.relates_to": {"rel_type": "m.annotation", "event_id": "{E}", "key": "+"}},
            400,
            "M_DUPLICATE_ANNOTATION",
        ),
    ],
    "setting state": [
        Case("carol", "PUT /rooms/{R}/state/m.room.topic", {"topic": "a"}, 403, "M_FORBIDDEN"),
        Case("bob", "PUT /rooms/{R}/state/m.room.topic", {"topic": "a"}, 403, "M_FORBIDDEN"),
        Case("alice", "PUT /rooms/{R}/state/m.room.create", {}, 400, "M_INVALID_PARAM"),
        Case("alice", "PUT /rooms/{R}/send/m.room.create/1", {}, 400, "M_INVALID_PARAM"),
        Case("alice", "PUT /rooms/{R}/state/org.example/@bob:localhost", {}, 403, "M_FORBIDDEN"),
        Case(
            "alice",
            "PUT /rooms/{R}/state/m.room.member/bob",
            {"membership": "invite"},
            400,
            "M_INVALID_PARAM",
        ),
        Case("alice", "PUT /rooms/{R}/state/m.room.member/{bob}", {"membership": "no"}, 400, "M_BAD_JSON"),
        Case("alice", "PUT /rooms/{R}/state/m.room.member/{bob}", {}, 400, "M_BAD_JSON"),
        Case(
            "alice", "PUT /rooms/{R}/state/m.room.member/{carol}", {"membership": "join"}, 403, "M_FORBIDDEN"
        ),
        Case("alice", "PUT /rooms/{R}/state/m.room.power_levels", {"users": []}, 400, "M_BAD_JSON"),
        Case("alice", "PUT /rooms/{R}/state/m.room.power_levels", {"ban": "50"}, 400, "M_BAD_JSON"),
        Case(
            "alice", "PUT /rooms/{R}/state/m.room.power_levels", {"users": {"{alice}": 1}}, 400, "M_BAD_JSON"
        ),
        Case("alice", f"PUT /rooms/{{R}}/state/org.example/{LONG}", {}, 413, "M_TOO_LARGE"),
        Case(
            "alice",
            "PUT /rooms/{R}/state/m.room.canonical_alias",
            {"alias": "nonsense"},
            400,
            "M_INVALID_PARAM",
        ),
        Case(
            "alice",
            "PUT /rooms/{R}/state/m.room.canonical_alias",
            {"alias": "#none:localhost"},
            400,
            "M_BAD_ALIAS",
        ),
        Case(
            "alice",
            "PUT /rooms/{P}/state/m.room.canonical_alias",
            {"alias": "#taken:localhost"},
            400,
            "M_BAD_ALIAS",
        ),
        Case(
            "alice",
            "PUT /rooms/{R}/state/m.room.canonical_alias",
            {"alt_aliases": ["nonsense"]},
            400,
            "M_INVALID_PARAM",
        ),
        Case("alice", "PUT /rooms/{R}/state/m.room.canonical_alias", {"alt_aliases": [5]}, 400, "M_BAD_JSON"),
    ],
    "membership": [
        Case("alice", "POST /rooms/{R}/invite", {}, 400, "M_MISSING_PARAM"),
        Case("alice", "POST /rooms/{R}/invite", {"user_id": 1}, 400, "M_BAD_JSON"),
        Case("alice", "POST /rooms/{R}/invite", BY_MAIL, 400, "M_SERVER_NOT_TRUSTED"),
        Case("bob", "POST /rooms/{R}/join", {"third_party_signed": PROOF}, 400, "M_SERVER_NOT_TRUSTED"),
        Case("alice", "POST /rooms/{R}/invite", {"user_id": "carol"}, 400, "M_INVALID_PARAM"),
        Case("alice", "POST /rooms/{R}/invite", {"user_id": "{bob}"}, 403, "M_FORBIDDEN"),
        Case("alice", "POST /rooms/{R}/invite", {"user_id": "{banned}"}, 403, "M_FORBIDDEN"),
        Case("alice", "POST /rooms/{R}/invite", {"user_id": "{carol}", "reason": 1}, 400, "M_BAD_JSON"),
        Case("carol", "POST /rooms/{R}/invite", {"user_id": "{carol}"}, 403, "M_FORBIDDEN"),
        Case("alice", "POST /rooms/{N}/invite", {"user_id": "{carol}"}, 403, "M_FORBIDDEN"),
        Case("carol", "POST /rooms/{P}/join", {}, 403, "M_FORBIDDEN"),
        Case("banned", "POST /rooms/{R}/join", {}, 403, "M_FORBIDDEN"),
        Case("carol", "POST /rooms/{R}/join", {"reason": 1}, 400, "M_BAD_JSON"),
        Case("carol", "POST /rooms/{R}/join", [], 400, "M_BAD_JSON"),
        Case("carol", "POST /join/{N}", {}, 404, "M_NOT_FOUND"),
        Case("carol", "POST /join/%23none:localhost", {}, 404, "M_NOT_FOUND"),
        Case("carol", "POST /join/nonsense", {}, 400, "M_INVALID_PARAM"),
        Case("carol", "POST /knock/{R}", {}, 403, "M_FORBIDDEN"),
        Case("carol", "POST /knock/{P}", {}, 403, "M_FORBIDDEN"),
        Case("carol", "POST /knock/{N}", {}, 404, "M_NOT_FOUND"),
        Case("carol", "POST /rooms/{R}/leave", {}, 403, "M_FORBIDDEN"),
        Case("banned", "POST /rooms/{R}/leave", {}, 403, "M_FORBIDDEN"),
        Case("bob", "POST /rooms/{R}/leave", {"reason": []}, 400, "M_BAD_JSON"),
        Case("bob", "POST /rooms/{R}/forget", {}, 400, "M_UNKNOWN"),
        Case("alice", "POST /rooms/{R}/kick", {}, 400, "M_MISSING_PARAM"),
        Case("alice", "POST /rooms/{R}/kick", {"user_id": "{carol}"}, 403, "M_FORBIDDEN"),
        Case("bob", "POST /rooms/{R}/kick", {"user_id": "{alice}"}, 403, "M_FORBIDDEN"),
        Case("carol", "POST /rooms/{R}/kick", {"user_id": "{bob}"}, 403, "M_FORBIDDEN"),
        Case("bob", "POST /rooms/{R}/ban", {"user_id": "{alice}"}, 403, "M_FORBIDDEN"),
        Case("carol", "POST /rooms/{R}/ban", {"user_id": "{bob}"}, 403, "M_FORBIDDEN"),
        Case("alice", "POST /rooms/{R}/ban", {"user_id": "nonsense"}, 400, "M_INVALID_PARAM"),
        Case("bob", "POST /rooms/{R}/unban", {"user_id": "{banned}"}, 403, "M_FORBIDDEN"),
        Case("alice", "POST /rooms/{R}/unban", {"user_id": "{bob}"}, 403, "M_FORBIDDEN"),
        Case("alice", "POST /rooms/{R}/unban", {}, 400, "M_MISSING_PARAM"),
        Case("alice", "POST /rooms/{R}/upgrade", {"new_version": "no"}, 400, "M_UNSUPPORTED_ROOM_VERSION"),
        Case("alice", "POST /rooms/{R}/upgrade", {}, 400, "M_MISSING_PARAM"),
        Case("bob", "POST /rooms/{R}/upgrade", {"new_version": "12"}, 403, "M_FORBIDDEN"),
        Case("carol", "POST /rooms/{R}/upgrade", {"new_version": "12"}, 403, "M_FORBIDDEN"),
    ],
    "reading": [
        Case("carol", "GET /rooms/{P}/messages?dir=b", None, 403, "M_FORBIDDEN"),
        Case("alice", "GET /rooms/{R}/messages?dir=x", None, 400, "M_INVALID_PARAM"),
        Case("alice", "GET /rooms/{R}/messages?dir=b&limit=x", None, 400, "M_INVALID_PARAM"),
        Case("alice", "GET /rooms/{R}/messages?dir=b&limit=-1", None, 400, "M_INVALID_PARAM"),
        Case("alice", "GET /rooms/{R}/messages?dir=b&from=nonsense", None, 400, "M_INVALID_PARAM"),
        Case("alice", "GET /rooms/{R}/messages?dir=b&to=nonsense", None, 400, "M_INVALID_PARAM"),
        Case("alice", "GET /rooms/{R}/messages?dir=b&filter=nonsense", None, 400, "M_NOT_JSON"),
        Case("alice", "GET /rooms/{R}/messages?dir=b&filter=[]", None, 400, "M_BAD_JSON"),
        Case("alice", "GET /rooms/{R}/event/{X}", None, 404, "M_NOT_FOUND"),
        Case("alice", "GET /rooms/{R}/event/$none", None, 404, "M_NOT_FOUND"),
        Case("carol", "GET /rooms/{P}/event/{X}", None, 404, "M_NOT_FOUND"),
        Case("alice", "GET /rooms/{R}/context/$none", None, 404, "M_NOT_FOUND"),
        Case("carol", "GET /rooms/{P}/context/{X}", None, 404, "M_NOT_FOUND"),
        Case("carol", "GET /rooms/{P}/state", None, 403, "M_FORBIDDEN"),
        Case("carol", "GET /rooms/{P}/members", None, 403, "M_FORBIDDEN"),
        Case("carol", "GET /rooms/{R}/joined_members", None, 403, "M_FORBIDDEN"),
        Case("alice", "GET /rooms/{R}/members?at=nonsense", None, 400, "M_INVALID_PARAM"),
        Case("alice", "GET /rooms/{R}/state/org.example.none", None, 404, "M_NOT_FOUND"),
        Case(
            "alice", "GET /_matrix/client/v1/rooms/{R}/timestamp_to_event?dir=f", None, 400, "M_MISSING_PARAM"
        ),
        Case(
            "alice",
            "GET /_matrix/client/v1/rooms/{R}/timestamp_to_event?dir=f&ts=x",
            None,
            400,
            "M_INVALID_PARAM",
        ),
        Case(
            "alice",
            "GET /_matrix/client/v1/rooms/{R}/timestamp_to_event?dir=b&ts=0",
            None,
            404,
            "M_NOT_FOUND",
        ),
        Case("alice", "GET /_matrix/client/v1/rooms/{R}/relations/$none", None, 404, "M_NOT_FOUND"),
        Case("alice", "GET /_matrix/client/v1/rooms/{R}/threads?include=x", None, 400, "M_INVALID_PARAM"),
        Case("carol", "GET /_matrix/client/v1/rooms/{P}/threads", None, 403, "M_FORBIDDEN"),
        Case("carol", "GET /_matrix/client/v1/rooms/{P}/hierarchy", None, 403, "M_FORBIDDEN"),
        Case(
            "alice", "GET /_matrix/client/v1/rooms/{R}/hierarchy?from=nonsense", None, 400, "M_INVALID_PARAM"
        ),
        Case("carol", "GET /_matrix/client/v1/room_summary/{P}", None, 404, "M_NOT_FOUND"),
    ],
    "sync and filters": [
        Case("alice", "GET /sync?since=nonsense", None, 400, "M_INVALID_PARAM"),
        Case("alice", "GET /sync?timeout=x", None, 400, "M_INVALID_PARAM"),
        Case("alice", "GET /sync?timeout=-1", None, 400, "M_INVALID_PARAM"),
        Case("alice", "GET /sync?full_state=maybe", None, 400, "M_INVALID_PARAM"),
        Case("alice", "GET /sync?set_presence=asleep", None, 400, "M_INVALID_PARAM"),
        Case("alice", "GET /sync?filter={{", None, 400, "M_NOT_JSON"),
        Case("alice", 'GET /sync?filter={{"room":1}}', None, 400, "M_BAD_JSON"),
        Case("alice", "GET /sync?filter=none", None, 400, "M_INVALID_PARAM"),
        Case("alice", "POST /user/{alice}/filter", [], 400, "M_BAD_JSON"),
        Case("alice", "POST /user/{alice}/filter", {"room": []}, 400, "M_BAD_JSON"),
        Case("alice", "POST /user/{alice}/filter", {"event_format": "x"}, 400, "M_BAD_JSON"),
        Case("alice", "POST /user/{bob}/filter", {}, 403, "M_FORBIDDEN"),
        Case("alice", "GET /user/{alice}/filter/none", None, 404, "M_NOT_FOUND"),
        Case("alice", "GET /user/{bob}/filter/0", None, 403, "M_FORBIDDEN"),
    ],
    "receipts and typing": [
        Case("alice", "POST /rooms/{R}/receipt/m.nonsense/{E}", {}, 400, "M_INVALID_PARAM"),
        Case("alice", "POST /rooms/{R}/receipt/m.read/{E}", {"thread_id": 1}, 400, "M_INVALID_PARAM"),
        Case("alice", "POST /rooms/{R}/receipt/m.read/{E}", {"thread_id": ""}, 400, "M_INVALID_PARAM"),
        Case("alice", "POST /rooms/{R}/receipt/m.read/{E}", {"thread_id": "$none"}, 400, "M_INVALID_PARAM"),
        Case(
            "alice", "POST /rooms/{R}/receipt/m.fully_read/{E}", {"thread_id": "main"}, 400, "M_INVALID_PARAM"
        ),
        Case("carol", "POST /rooms/{R}/receipt/m.read/{E}", {}, 403, "M_FORBIDDEN"),
        Case("carol", "POST /rooms/{R}/read_markers", {"m.read": "{E}"}, 403, "M_FORBIDDEN"),
        Case("alice", "POST /rooms/{R}/read_markers", {"m.read": 1}, 400, "M_BAD_JSON"),
        Case("alice", "PUT /rooms/{R}/typing/{bob}", {"typing": True}, 403, "M_FORBIDDEN"),
        Case("carol", "PUT /rooms/{R}/typing/{carol}", {"typing": True}, 403, "M_FORBIDDEN"),
        Case("alice", "PUT /rooms/{R}/typing/{alice}", {}, 400, "M_MISSING_PARAM"),
        Case("alice", "PUT /rooms/{R}/typing/{alice}", {"typing": "yes"}, 400, "M_BAD_JSON"),
        Case("alice", "PUT /rooms/{R}/typing/{alice}", {"typing": True, "timeout": "1"}, 400, "M_BAD_JSON"),
    ],
    "directory": [
        Case("alice", "PUT /directory/room/%23taken:localhost", {"room_id": "{R}"}, 409, "M_UNKNOWN"),
        Case("alice", "PUT /directory/room/%23new:localhost", {}, 400, "M_MISSING_PARAM"),
        Case("alice", "PUT /directory/room/%23new:localhost", {"room_id": "nonsense"}, 404, "M_NOT_FOUND"),
        Case(
            "alice",
            "PUT /directory/room/%23new:elsewhere.example",
            {"room_id": "{R}"},
            400,
            "M_INVALID_PARAM",
        ),
        Case("alice", "PUT /directory/room/nonsense", {"room_id": "{R}"}, 400, "M_INVALID_PARAM"),
        Case("carol", "PUT /directory/room/%23new:localhost", {"room_id": "{R}"}, 403, "M_FORBIDDEN"),
        Case("bob", "DELETE /directory/room/%23taken:localhost", None, 403, "M_FORBIDDEN"),
        Case("alice", "DELETE /directory/room/%23none:localhost", None, 404, "M_NOT_FOUND"),
        Case("nobody", "GET /directory/room/%23none:localhost", None, 404, "M_NOT_FOUND"),
        Case("nobody", "GET /directory/room/nonsense", None, 400, "M_INVALID_PARAM"),
        Case("nobody", "GET /directory/list/room/{N}", None, 404, "M_NOT_FOUND"),
        Case("bob", "PUT /directory/list/room/{R}", {"visibility": "public"}, 403, "M_FORBIDDEN"),
        Case("alice", "PUT /directory/list/room/{R}", {"visibility": "x"}, 400, "M_BAD_JSON"),
        Case("alice", "PUT /directory/list/room/{N}", {"visibility": "public"}, 404, "M_NOT_FOUND"),
        Case("nobody", "GET /publicRooms", None, 401, "M_MISSING_TOKEN"),
        Case("alice", "GET /publicRooms?limit=x", None, 400, "M_INVALID_PARAM"),
        Case("alice", "GET /publicRooms?since=nonsense", None, 400, "M_INVALID_PARAM"),
        Case("alice", "POST /publicRooms", {"filter": []}, 400, "M_BAD_JSON"),
    ],
    "accounts": [
        Case("nobody", "POST /register", {"username": "ALICE BOB"}, 400, "M_INVALID_USERNAME"),
        Case("nobody", "POST /register", {"username": "alice"}, 400, "M_USER_IN_USE"),
        Case("nobody", "POST /register", {"username": 1}, 400, "M_BAD_JSON"),
        Case("nobody", "POST /register", {"username": "new", "password": "x"}, 400, "M_WEAK_PASSWORD"),
        Case("nobody", "POST /register", {"username": LONG}, 400, "M_INVALID_USERNAME"),
        Case("nobody", "POST /register?kind=robot", {}, 400, "M_INVALID_PARAM"),
        Case("nobody", "GET /register/available", None, 400, "M_MISSING_PARAM"),
        Case("nobody", "GET /register/available?username=alice", None, 400, "M_USER_IN_USE"),
        Case("nobody", "GET /register/available?username=A+B", None, 400, "M_INVALID_USERNAME"),
        Case("nobody", "POST /login", {}, 400, "M_MISSING_PARAM"),
        Case("nobody", "POST /login", {"type": "m.no_such"}, 400, "M_UNKNOWN"),
        Case("nobody", "POST /login", {"type": "m.login.password"}, 400, "M_MISSING_PARAM"),
        Case(
            "nobody",
            "POST /login",
            {
                "type": "m.login.password",
                "password": "wrong",
                "identifier": {"type": "m.id.user", "user": "alice"},
            },
            403,
            "M_FORBIDDEN",
        ),
        Case(
            "nobody",
            "POST /login",
            {
                "type": "m.login.password",
                "password": "x",
                "identifier": {"type": "m.id.user", "user": "none"},
            },
            403,
            "M_FORBIDDEN",
        ),
        Case(
            "nobody",
            "POST /login",
            {
                "type": "m.login.password",
                "password": "",
                "identifier": {"type": "m.id.user", "user": "alice"},
            },
            403,
            "M_FORBIDDEN",
        ),
        Case("nobody", "POST /login", {"type": "m.login.token", "token": "nonsense"}, 403, "M_FORBIDDEN"),
        Case("nobody", "POST /login", {"type": "m.login.token", "token": ""}, 400, "M_MISSING_PARAM"),
        Case("nobody", "POST /refresh", {}, 400, "M_MISSING_PARAM"),
        Case("nobody", "POST /refresh", {"refresh_token": "nonsense"}, 401, "M_UNKNOWN_TOKEN"),
        Case("alice", "POST /account/password", {}, 400, "M_MISSING_PARAM"),
        Case("alice", "POST /account/password", {"new_password": "x"}, 400, "M_WEAK_PASSWORD"),
        Case("alice", "GET /devices/none", None, 404, "M_NOT_FOUND"),
        Case("alice", "PUT /devices/none", {"display_name": "a"}, 404, "M_NOT_FOUND"),
        Case("alice", "PUT /devices/{alice-device}", {"display_name": 1}, 400, "M_BAD_JSON"),
        Case("alice", "POST /delete_devices", {"devices": "x"}, 400, "M_BAD_JSON"),
        Case("alice", "GET /_matrix/client/v3/admin/whois/{bob}", None, 403, "M_FORBIDDEN"),
        Case("alice", "PUT /_matrix/client/v1/admin/lock/{bob}", {"locked": True}, 403, "M_FORBIDDEN"),
        Case("alice", "POST /user/{bob}/openid/request_token", {}, 403, "M_FORBIDDEN"),
    ],
    "what users keep": [
        Case("nobody", "GET /profile/@none:localhost", None, 404, "M_NOT_FOUND"),
        Case("nobody", "GET /profile/nonsense", None, 400, "M_INVALID_PARAM"),
        Case("alice", "PUT /profile/{bob}/displayname", {"displayname": "a"}, 403, "M_FORBIDDEN"),
        Case("alice", "PUT /profile/{alice}/displayname", {"displayname": 1}, 400, "M_BAD_JSON"),
        Case("alice", "PUT /profile/{alice}/displayname", {}, 400, "M_MISSING_PARAM"),
        Case("alice", "PUT /profile/{alice}/m.tz", {"m.tz": 1}, 400, "M_BAD_JSON"),
        Case("alice", "PUT /profile/{alice}/m.tz", {"m.tz": "x" * 70_000}, 400, "M_PROFILE_TOO_LARGE"),
        Case("alice", f"PUT /profile/{{alice}}/{LONG}", {LONG: 1}, 400, "M_KEY_TOO_LARGE"),
        Case("alice", "PUT /user/{bob}/account_data/a", {}, 403, "M_FORBIDDEN"),
        Case("alice", "PUT /user/{alice}/account_data/a", [], 400, "M_BAD_JSON"),
        Case("alice", "PUT /user/{alice}/account_data/a", b"", 400, "M_NOT_JSON"),
        Case("alice", "PUT /user/{alice}/account_data/m.push_rules", {}, 405, "M_BAD_JSON"),
        Case("alice", "PUT /user/{alice}/rooms/{R}/account_data/m.fully_read", {}, 405, "M_BAD_JSON"),
        Case("alice", "PUT /user/{alice}/rooms/nonsense/account_data/a", {}, 400, "M_INVALID_PARAM"),
        Case("alice", "GET /user/{alice}/account_data/none", None, 404, "M_NOT_FOUND"),
        Case("alice", "PUT /user/{bob}/rooms/{R}/tags/a", {}, 403, "M_FORBIDDEN"),
        Case("alice", "PUT /user/{alice}/rooms/{R}/tags/a", {"order": "1"}, 400, "M_BAD_JSON"),
        Case("alice", f"PUT /user/{{alice}}/rooms/{{R}}/tags/{LONG}", {}, 400, "M_INVALID_PARAM"),
        Case("alice", "PUT /pushrules/global/content/a", {"actions": ["notify"]}, 400, "M_INVALID_PARAM"),
        Case("alice", "PUT /pushrules/global/nonsense/a", {"actions": []}, 400, "M_INVALID_PARAM"),
        Case("alice", "PUT /pushrules/global/override/.m.a", {"actions": []}, 400, "M_INVALID_PARAM"),
        Case("alice", "GET /pushrules/global/override/none", None, 404, "M_NOT_FOUND"),
        Case("alice", "PUT /presence/{alice}/status", {"presence": "asleep"}, 400, "M_BAD_JSON"),
        Case("alice", "PUT /presence/{bob}/status", {"presence": "online"}, 403, "M_FORBIDDEN"),
        Case("carol", "GET /presence/{alice}/status", None, 403, "M_FORBIDDEN"),
    ],
    "keys": [
        Case("alice", "POST /keys/query", {}, 400, "M_MISSING_PARAM"),
        Case("alice", "POST /keys/query", {"device_keys": []}, 400, "M_BAD_JSON"),
        Case("alice", "POST /keys/query", {"device_keys": {"{bob}": "x"}}, 400, "M_BAD_JSON"),
        Case("alice", "POST /keys/claim", {"one_time_keys": {"{bob}": []}}, 400, "M_BAD_JSON"),
        Case("alice", "POST /keys/upload", {"device_keys": []}, 400, "M_BAD_JSON"),
        Case("alice", "POST /keys/upload", b"{", 400, "M_NOT_JSON"),
        Case("alice", "POST /keys/upload", b'{"unknown": "\xff"}', 400, "M_NOT_JSON"),
        Case("alice", "POST /keys/upload", b'{"one_time_keys": {"a:b": NaN}}', 400, "M_NOT_JSON"),
        Case("alice", "POST /keys/upload", b'{"one_time_keys": {"a:b": "\\ud800"}}', 400, "M_NOT_JSON"),
        Case("alice", "POST /keys/upload", b'{"unknown": ' + b"[" * 100_000, 400, "M_NOT_JSON"),
        Case("alice", "POST /keys/upload", {"one_time_keys": {"a:b": {"c": 1.0}}}, 400, "M_BAD_JSON"),
        Case("alice", "POST /keys/upload", {"one_time_keys": {"a:b": {"c": 2**53}}}, 400, "M_BAD_JSON"),
        Case("alice", "GET /keys/changes?from=nonsense&to=nonsense", None, 400, "M_INVALID_PARAM"),
        Case("alice", "GET /keys/changes", None, 400, "M_MISSING_PARAM"),
        Case("alice", "PUT /sendToDevice/m.a/1", {}, 400, "M_MISSING_PARAM"),
        Case("alice", "PUT /sendToDevice/m.a/1", {"messages": {"{bob}": []}}, 400, "M_BAD_JSON"),
        Case("alice", "GET /room_keys/version", None, 404, "M_NOT_FOUND"),
        Case("alice", "GET /room_keys/keys", None, 400, "M_MISSING_PARAM"),
        Case("alice", "PUT /room_keys/keys?version=1", {"rooms": {}}, 404, "M_NOT_FOUND"),
        Case("alice", "POST /room_keys/version", {"algorithm": "a"}, 400, "M_MISSING_PARAM"),
    ],
    "media": [
        Case("nobody", "GET /_matrix/client/v1/media/download/localhost/none", None, 401, "M_MISSING_TOKEN"),
        Case("alice", "GET /_matrix/client/v1/media/download/localhost/none", None, 404, "M_NOT_FOUND"),
        Case("alice", "GET /_matrix/client/v1/media/thumbnail/localhost/none", None, 400, "M_MISSING_PARAM"),
        Case(
            "alice",
            "GET /_matrix/client/v1/media/thumbnail/localhost/none?width=0&height=1",
            None,
            400,
            "M_INVALID_PARAM",
        ),
        Case("nobody", "POST /_matrix/media/v3/upload", b"x", 401, "M_MISSING_TOKEN"),
        Case("alice", "PUT /_matrix/media/v3/upload/localhost/none", b"x", 404, "M_NOT_FOUND"),
    ],
}


class Scene(NamedTuple):
    people: Mapping[str, Client]
    ids: Mapping[str, str]


@pytest.fixture
async def scene(server: Server, alice: Client, bob: Client, carol: Client) -> Scene:
    """`R`: a public room of alice's with bob in it, `E` an event of hers; `P`: a private one with `X`."""
    banned, forger = await server.register("banned"), server.client()
    forger.token = "nonsense"
    levels = {"events": {"org.example.high": 50}}
    room = await alice.create_room(
        preset="public_chat", room_alias_name="taken", power_level_content_override=levels
    )
    await bob.join(room)
    await alice.post(f"/rooms/{quote(room)}/ban", {"user_id": banned.user_id})
    event = await alice.send(room)
    like = {"rel_type": "m.annotation", "event_id": event, "key": "+"}
    await alice.send(room, {"m.relates_to": like}, "m.reaction")
    private = await alice.create_room(preset="private_chat")
    people = {"alice": alice, "bob": bob, "carol": carol, "banned": banned, "forger": forger}
    ids = {name: client.user_id for name, client in people.items()} | {
        "R": room,
        "E": event,
        "P": private,
        "X": await alice.send(private),
        "N": "!none:localhost",
        "alice-device": alice.device_id,
    }
    return Scene({**people, "nobody": server.client()}, ids)


def filled(body: Body, ids: Mapping[str, str]) -> Body:
    """The body with the scene's ids in place of `{R}` and the like."""
    if isinstance(body, dict):
        return {str(filled(key, ids)): filled(value, ids) for key, value in body.items()}
    if isinstance(body, list):
        return [filled(value, ids) for value in body]
    if isinstance(body, str) and body.startswith("{"):
        return ids[body[1:-1]]
    return body


async def news(scene: Scene) -> list[Any]:
    """What the last sync of each person has not shown yet."""
    shown = []
    for name in ("alice", "bob", "carol", "banned"):
        answer = await scene.people[name].sync(filter={"presence": {"types": []}})
        shown.append({key: value for key, value in answer.items() if key != "next_batch"})
    return shown


@pytest.mark.parametrize("about", TABLE)
async def test_what_is_wrong_gets_its_error_and_changes_nothing(scene: Scene, about: str) -> None:
    await news(scene)
    quiet = await news(scene)
    wrong = []
    for case in TABLE[about]:
        method, _, path = case.request.partition(" ")
        path = path.format(**{name: quote(value, safe="") for name, value in scene.ids.items()})
        path = quote(path, safe="/%?&=+")
        person, body = scene.people[case.who], filled(case.body, scene.ids)
        if isinstance(body, bytes):
            reply = await person.call(method, path, data=body, expect=None)
        else:
            reply = await person.call(method, path, body, expect=None)
        if (reply.status, reply.errcode) != (case.status, case.errcode):
            wrong.append(f"{case}\n  got {reply.status} {reply.body}")
        if await news(scene) != quiet:
            wrong.append(f"{case}\n  changed something")
    assert not wrong, "\n".join(wrong)
