"""OpenID tokens (spec: client-server "OpenID")."""

from client_api.http import Call, post
from homeserver.users.openid import LIFETIME_MS, OpenId
from rest.answers import Result
from rest.routes import Routes


class OpenIdRoutes(Routes):
    def __init__(self, openid: OpenId, server_name: str) -> None:
        self._openid = openid
        self._server_name = server_name

    @post("/user/{user_id}/openid/request_token", limit="request")
    async def request_token(self, call: Call) -> Result:
        call.check_own()
        return {
            "access_token": await self._openid.issue(call.user_id),
            "token_type": "Bearer",
            "matrix_server_name": self._server_name,
            "expires_in": LIFETIME_MS // 1000,
        }
