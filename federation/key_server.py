"""Signing keys: this server's, and as a notary those of others.

spec: server-server "Retrieving server keys"
"""

from federation.http import Auth, Call, get, post
from federation.notary import Notary
from federation.own_keys import OwnKeys
from rest.answers import Result
from rest.routes import Routes

OWN = "/_matrix/key/v2/server"
"""Before version 1.7 of the specification a key id could follow, perhaps an empty one."""


class KeyServerRoutes(Routes):
    def __init__(self, own: OwnKeys, notary: Notary) -> None:
        self._own = own
        self._notary = notary

    @get(OWN, f"{OWN}/", f"{OWN}/{{key_id}}", auth=Auth.NONE)
    async def own(self, call: Call) -> Result:
        return self._own.answer()

    @get("/_matrix/key/v2/query/{server_name}", auth=Auth.NONE)
    async def query_one(self, call: Call) -> Result:
        least = call.int_query("minimum_valid_until_ts", 0)
        return await self._notary.query_one(call.path("server_name"), least or None, call.charge)

    @post("/_matrix/key/v2/query", auth=Auth.NONE)
    async def query(self, call: Call) -> Result:
        return await self._notary.query(call.content(), call.charge)
