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
    def __init__(self, profiles: Profiles, accounts: Accounts, aliases: Aliases) -> None:
        self._profiles = profiles
        self._accounts = accounts
        self._aliases = aliases

    @get(f"{QUERY}/profile")
    async def profile(self, call: Call) -> Result:
        user_id = await self._accounts.check_shown(call.required_query("user_id"))
        field = call.query("field")
        if field is None:
            return await self._profiles.get(user_id)
        return {field: await self._profiles.field(user_id, field)}

    @get(f"{QUERY}/directory")
    async def directory(self, call: Call) -> Result:
        located = await self._aliases.find_own(call.required_query("room_alias"))
        return {"room_id": located.room_id, "servers": located.servers}

    @get(f"{QUERY}/{{query_type}}")
    async def other(self, call: Call) -> Result:
        raise not_found("This server knows no such query")
