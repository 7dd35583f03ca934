"""Third-party networks (spec: client-server "Third-party Networks").

Networks are bridged by application services; this server has none, so it knows no protocol.
"""

from client_api.http import Call, get
from homeserver.errors import not_found
from rest.answers import Result
from rest.routes import Routes


class ThirdPartyNetworkRoutes(Routes):
    @get("/thirdparty/protocols")
    async def protocols(self, call: Call) -> Result:
        return {}

    @get(
        "/thirdparty/protocol/{protocol}",
        "/thirdparty/location/{protocol}",
        "/thirdparty/user/{protocol}",
    )
    async def of_protocol(self, call: Call) -> Result:
        raise not_found("This server does not know the protocol")

    @get("/thirdparty/location")
    async def locations_of_alias(self, call: Call) -> Result:
        call.required_query("alias")
        raise not_found("The alias leads to no third-party location")

    @get("/thirdparty/user")
    async def users_of_user(self, call: Call) -> Result:
        call.required_query("userid")
        raise not_found("The user is nobody on a third-party network")
