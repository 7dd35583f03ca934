"""Other servers asked about rooms (spec: server-server "Published Room Directory", "Spaces")."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from federation.client import FederationClient, request_target
from federation.errors import FederationError, Refused, RemoteError
from homeserver.clock import Clock
from homeserver.errors import MatrixError, not_found
from homeserver.protocol.identifiers import InvalidIdentifier, check_room_id, server_name_of
from homeserver.protocol.json_types import JsonObject
from homeserver.rooms.foreign_rooms import ForeignRoom, Wanted, read_description, read_foreign_room

V1 = "/_matrix/federation/v1"
DIRECTORY_SECONDS = 20.0
ROOM_SECONDS = 8.0
MAX_BYTES = 2 * 1024 * 1024
MAX_ROOM_BYTES = 512 * 1024
MAX_SERVERS = 3
"""So many servers are asked about one room."""
KEPT = 100
KEPT_MS = 5 * 60_000
"""How long what was said of a room holds: a tree is walked anew for each of its pages."""
MAX_TOKEN = 1_000

PASSED_ON = {"M_FORBIDDEN": 403, "M_NOT_FOUND": 404, "M_UNRECOGNIZED": 404}


class RemoteForeignRooms:
    """Implements `homeserver.rooms.foreign_rooms.ForeignRooms`."""

    def __init__(self, server_name: str, client: FederationClient, now: Clock) -> None:
        self._server_name = server_name
        self._client = client
        self._now = now
        self._kept: OrderedDict[tuple[str, bool], tuple[int, ForeignRoom]] = OrderedDict()
        """Until when it holds, and what was said. Who said nothing may do so in a moment: to the same user,
        once they are somewhere else."""

    async def directory(self, server: str, wanted: Wanted) -> JsonObject:
        page: dict[str, Any] = {
            "limit": wanted.limit,
            "since": wanted.since,
            "third_party_instance_id": wanted.network,
            "include_all_networks": wanted.all_networks or None,
        }
        asked = {key: value for key, value in page.items() if value is not None}
        filter = {"generic_search_term": wanted.search, "room_types": wanted.room_types}
        filter = {key: value for key, value in filter.items() if value is not None}
        path = f"{V1}/publicRooms"
        try:
            if filter:
                content = {**asked, "filter": filter}
                answer = await self._client.post(
                    server, path, content, seconds=DIRECTORY_SECONDS, max_bytes=MAX_BYTES
                )
            else:
                query = {key: "true" if value is True else str(value) for key, value in asked.items()}
                answer = await self._client.get(
                    server,
                    request_target(path, query=query),
                    seconds=DIRECTORY_SECONDS,
                    max_bytes=MAX_BYTES,
                )
        except FederationError as error:
            raise _told(server, error) from error
        return _directory(answer)

    async def room(self, room_id: str, via: Sequence[str], *, suggested_only: bool) -> ForeignRoom | None:
        key = room_id, suggested_only
        kept = self._kept.get(key)
        if kept is not None and kept[0] > self._now():
            return kept[1]
        servers = _servers(self._server_name, room_id, via)
        return await self._ask(key, servers) if servers else None

    async def _ask(self, key: tuple[str, bool], servers: Sequence[str]) -> ForeignRoom | None:
        room_id, suggested_only = key
        query = {"suggested_only": "true" if suggested_only else "false"}
        target = request_target(f"{V1}/hierarchy", room_id, query=query)
        for server in servers:
            try:
                answer = await self._client.get(
                    server, target, seconds=ROOM_SECONDS, max_bytes=MAX_ROOM_BYTES
                )
            except FederationError:
                continue
            found = read_foreign_room(answer, room_id)
            if found is not None:
                self._kept[key] = self._now() + KEPT_MS, found
                self._kept.move_to_end(key)
                if len(self._kept) > KEPT:
                    self._kept.popitem(last=False)
                return found
        return None


def _servers(own: str, room_id: str, via: Sequence[object]) -> list[str]:
    """Who is asked about a room; none for what is no room."""
    try:
        check_room_id(room_id)
    except InvalidIdentifier:
        return []
    named = [name for name in via if isinstance(name, str)]
    if ":" in room_id:
        named.append(server_name_of(room_id))
    return [name for name in dict.fromkeys(named) if name != own][:MAX_SERVERS]


def _directory(answer: JsonObject) -> JsonObject:
    """What is believed of a page of a directory."""
    chunk = answer.get("chunk")
    rooms = [read_description(each) for each in chunk] if isinstance(chunk, list) else []
    shown: JsonObject = {"chunk": [room.shown() for room in rooms if room is not None]}
    total = answer.get("total_room_count_estimate")
    if type(total) is int and total >= 0:
        shown["total_room_count_estimate"] = total
    for key in ("next_batch", "prev_batch"):
        token = answer.get(key)
        if isinstance(token, str) and len(token) <= MAX_TOKEN:
            shown[key] = token
    return shown


def _told(server: str, error: FederationError) -> MatrixError:
    """What the client is told when a directory cannot be read."""
    if isinstance(error, RemoteError) and error.errcode in PASSED_ON:
        errcode = "M_FORBIDDEN" if error.errcode == "M_FORBIDDEN" else "M_NOT_FOUND"
        return MatrixError(PASSED_ON[error.errcode], errcode, f"{server} does not show its room directory")
    if isinstance(error, Refused):
        return not_found(f"Cannot reach the room directory of {server}")
    return MatrixError(502, "M_UNKNOWN", f"Cannot reach the room directory of {server}")
