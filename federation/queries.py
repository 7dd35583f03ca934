"""What other servers ask about users and aliases (spec: server-server "Querying for information")."""

from federation.http import Call, get
from homeserver.errors import not_found
from homeserver.rooms.aliases import Aliases
from homeserver.users.accounts import Accounts
from homeserver.users.profiles import Profiles
from rest.answers import Result
from rest.routes import Routes

QUERY = "/_matrix/federation/v1/query"


class QueryRoutes(Routes):
    def __init__(self, profiles: Profiles, accounts: Accounts, aliases: Aliases, server_name: str) -> None:
        self._profiles = profiles
        self._accounts = accounts
        self._aliases = aliases
        self._server_name = server_name

    @get(f"{QUERY}/profile")
    async def profile(self, call: Call) -> Result:
        user_id = await self._accounts.check_shown(call.required_query("user_id"))
        field = call.query("field")
        if field is None:
            return await self._profiles.get(user_id)
        return {field: await self._profiles.field(user_id, field)}

    @get(f"{QUERY}/directory")
    async def directory(self, call: Call) -> Result:
        record = await self._aliases.resolve(call.required_query("room_alias"))
        return {"room_id": record.room_id, "servers": [self._server_name]}

    @get(f"{QUERY}/{{query_type}}")
    async def other(self, call: Call) -> Result:
        raise not_found("This server knows no such query")
