"""Member events for rooms that this server is not in, made from what a server in the room says of it.

A template says upon what the event follows, and what authorises it. Nothing else of it is signed: what the
event is about is this server's own (spec: server-server "Joining Rooms").
"""

from typing import Any

from federation.client import FederationClient, request_target
from federation.errors import InvalidAnswer
from homeserver.errors import too_large
from homeserver.protocol.canonical_json import InvalidJson
from homeserver.protocol.events import Event, EventTooLarge, InvalidEvent, build_event, parse_pdu
from homeserver.protocol.json_types import JsonObject
from homeserver.protocol.room_versions import ROOM_VERSIONS, RoomVersion
from homeserver.rooms.authoring import Author
from homeserver.rooms.restricted import AUTHORISER

V1 = "/_matrix/federation/v1"
SECONDS = 20.0
MAX_BYTES = 256 * 1024


class Templates:
    """Asks for templates and fills them in."""

    def __init__(self, client: FederationClient, author: Author) -> None:
        self._client = client
        self._author = author

    async def fill(self, server: str, room_id: str, user_id: str, content: JsonObject) -> Event:
        """The user's own member event with this content, in the room as `server` has it.

        Raises FederationError, and MatrixError 413.
        """
        membership: str = content["membership"]
        query = {"ver": list(ROOM_VERSIONS)} if membership != "leave" else None
        answer = await self._client.get(
            server,
            request_target(f"{V1}/make_{membership}", room_id, user_id, query=query),
            seconds=SECONDS,
            max_bytes=MAX_BYTES,
        )
        version = _known_version(server, answer)
        template = answer.get("event")
        said = template.get("content") if isinstance(template, dict) else None
        if not isinstance(template, dict) or not isinstance(said, dict):
            raise InvalidAnswer(server, "it has no template")
        about = (*map(template.get, ("type", "room_id", "sender", "state_key")), said.get("membership"))
        if about != ("m.room.member", room_id, user_id, user_id, membership):
            raise InvalidAnswer(server, "its template is about something else")
        authoriser = said.get(AUTHORISER)
        if membership == "join" and version.restricted_joins and isinstance(authoriser, str):
            content = {**content, AUTHORISER: authoriser}
        previous = _references(version, server, template, "prev_events")
        authorising = _references(version, server, template, "auth_events")
        try:
            event, _ = build_event(
                version,
                server_name=self._author.server_name,
                key=self._author.key,
                room_id=room_id,
                type="m.room.member",
                sender=user_id,
                state_key=user_id,
                content=content,
                prev_events=list(previous),
                auth_events=list(authorising),
                depth=_depth(server, template),
                origin_server_ts=self._author.now(),
                reference_hashes={**previous, **authorising},
            )
            return parse_pdu(version, event.pdu)
        except EventTooLarge as error:
            raise too_large(str(error)) from error
        except (InvalidEvent, InvalidJson) as error:
            raise InvalidAnswer(server, f"its template makes no event: {error}") from error


def _known_version(server: str, answer: JsonObject) -> RoomVersion:
    identifier = answer.get("room_version", "1")
    version = ROOM_VERSIONS.get(identifier) if isinstance(identifier, str) else None
    if version is None:
        raise InvalidAnswer(server, "its room has a version that is not known here")
    return version


def _depth(server: str, template: JsonObject) -> int:
    depth = template.get("depth")
    if type(depth) is not int:
        raise InvalidAnswer(server, "its template has no depth")
    return depth


def _references(version: RoomVersion, server: str, template: JsonObject, key: str) -> dict[str, str]:
    """The events that a template refers to, with their hashes where ids are none."""
    references: Any = template.get(key)
    if not isinstance(references, list):
        raise InvalidAnswer(server, f"its template has no {key}")
    found: dict[str, str] = {}
    for reference in references:
        event_id, hashes = reference, {"sha256": ""}
        if not version.event_ids_are_hashes and isinstance(reference, list) and len(reference) == 2:
            event_id, hashes = reference
        hash = hashes.get("sha256", "") if isinstance(hashes, dict) else None
        if not isinstance(event_id, str) or not isinstance(hash, str):
            raise InvalidAnswer(server, f"its template has {key} that are none")
        found[event_id] = hash
    return found
