"""Rooms shared with another user (spec: client-server "Mutual Rooms")."""

from base64 import urlsafe_b64decode, urlsafe_b64encode

from client_api.http import Call, get
from homeserver.errors import invalid_param
from homeserver.protocol.identifiers import check_room_id, check_user_id
from homeserver.users.shared_rooms import SharedRooms
from rest.answers import Result
from rest.routes import Routes

PAGE = 200
MAX_TOKEN = 500


class MutualRoomRoutes(Routes):
    def __init__(self, shared_rooms: SharedRooms) -> None:
        self._shared_rooms = shared_rooms

    @get(
        "/_matrix/client/v1/mutual_rooms",
        "/_matrix/client/unstable/uk.half-shot.msc2666/user/mutual_rooms",
        limit="request",
    )
    async def mutual_rooms(self, call: Call) -> Result:
        other = check_user_id(call.required_query("user_id"))
        localpart = other[1:].partition(":")[0]
        if not localpart or not all("!" <= character <= "~" for character in localpart):
            # spec: appendices#historical-user-ids
            raise invalid_param("user_id: such user ids are not used any more")
        if other == call.user_id:
            raise invalid_param("user_id: must be another user")
        after = _decode(call.query("from"))
        shared = sorted(await self._shared_rooms.between(call.user_id, other))
        rest = [room_id for room_id in shared if room_id > after]
        answer: dict[str, object] = {"joined": rest[:PAGE], "count": len(shared)}
        if len(rest) > PAGE:
            answer["next_batch"] = urlsafe_b64encode(rest[PAGE - 1].encode()).decode().rstrip("=")
        return answer


def _decode(token: str | None) -> str:
    """The room id after which a page begins."""
    if token is None:
        return ""
    try:
        if len(token) <= MAX_TOKEN:
            return check_room_id(urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode())
    except ValueError as error:
        raise invalid_param("from: not a token of this list") from error
    raise invalid_param("from: not a token of this list")
