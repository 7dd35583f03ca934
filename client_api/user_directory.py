"""Finding users (spec: client-server "User Directory")."""

import msgspec

from client_api.http import Call, post
from homeserver.consumers.user_directory import UserDirectory
from homeserver.protocol.json_types import JsonObject
from rest.answers import Result
from rest.routes import Routes
from storage.records.user_directory import DirectoryWord

DEFAULT_LIMIT = 10
MAX_LIMIT = 50


class SearchBody(msgspec.Struct):
    search_term: str
    limit: int = DEFAULT_LIMIT


class UserDirectoryRoutes(Routes):
    def __init__(self, directory: UserDirectory) -> None:
        self._directory = directory

    @post("/user_directory/search", limit="search", quick=True)
    async def search(self, call: Call) -> Result:
        body = call.json(SearchBody)
        limit = max(0, min(body.limit, MAX_LIMIT))
        found, limited = await self._directory.search(call.user_id, body.search_term, limit)
        return {"results": [_shown(user) for user in found], "limited": limited}


def _shown(user: DirectoryWord) -> JsonObject:
    shown = {"user_id": user.user_id, "display_name": user.display_name, "avatar_url": user.avatar_url}
    return {key: value for key, value in shown.items() if value is not None}
