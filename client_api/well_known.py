"""What the server says of itself to those who have only its name (spec: client-server "Well-known URIs",
server-server "Server discovery").

Served here so that a reverse proxy can pass `/.well-known/matrix/` on; a web server may answer instead.
"""

from client_api.http import Auth, Call, get
from client_api.voip import transports
from homeserver.config.options import Calls, WellKnown
from homeserver.errors import not_found
from homeserver.protocol.json_types import JsonObject
from rest.answers import Result
from rest.routes import Routes


class WellKnownRoutes(Routes):
    def __init__(self, options: WellKnown, public_url: str, calls: Calls) -> None:
        self._client: JsonObject = {"m.homeserver": {"base_url": public_url}}
        if options.identity_server is not None:
            self._client["m.identity_server"] = {"base_url": options.identity_server}
        if calls.livekit:
            # Where clients looked before there was an endpoint for it.
            self._client["org.matrix.msc4143.rtc_foci"] = transports(calls)
        self._server = options.server
        self._support: JsonObject = {}
        if options.support_contacts:
            self._support["contacts"] = [
                {
                    "role": contact.role,
                    **({"email_address": contact.email_address} if contact.email_address else {}),
                    **({"matrix_id": contact.matrix_id} if contact.matrix_id else {}),
                }
                for contact in options.support_contacts
            ]
        if options.support_page is not None:
            self._support["support_page"] = options.support_page

    @get("/.well-known/matrix/client", auth=Auth.NONE)
    async def client(self, call: Call) -> Result:
        return self._client

    @get("/.well-known/matrix/server", auth=Auth.NONE)
    async def server(self, call: Call) -> Result:
        if self._server is None:
            raise not_found("Other servers find this one by its name alone")
        return {"m.server": self._server}

    @get("/.well-known/matrix/support", auth=Auth.NONE)
    async def support(self, call: Call) -> Result:
        if not self._support:
            raise not_found("This server names no contacts")
        return self._support

    @get("/.well-known/matrix/policy_server", auth=Auth.NONE)
    async def policy_server(self, call: Call) -> Result:
        raise not_found("This is no policy server")
