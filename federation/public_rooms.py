"""The directory of published rooms (spec: server-server "Published Room Directory")."""

from federation.http import Call, get, post
from homeserver.errors import forbidden
from homeserver.rooms.directory import Directory
from rest import public_rooms
from rest.answers import Result
from rest.routes import Routes


class PublicRoomRoutes(Routes):
    def __init__(self, directory: Directory, *, shown: bool) -> None:
        self._directory = directory
        self._shown = shown

    @get("/_matrix/federation/v1/publicRooms")
    async def listed(self, call: Call) -> Result:
        self._check_shown()
        return await public_rooms.listed(self._directory.page, call)

    @post("/_matrix/federation/v1/publicRooms")
    async def found(self, call: Call) -> Result:
        self._check_shown()
        return await public_rooms.found(self._directory.page, call)

    def _check_shown(self) -> None:
        if not self._shown:
            raise forbidden("This server shows its room directory to its own users only")
