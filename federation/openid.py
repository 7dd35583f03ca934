"""Who a user is, to services that the user gave a token (spec: server-server "OpenID")."""

from federation.http import Auth, Call, get
from homeserver.errors import MatrixError
from homeserver.users.openid import OpenId
from rest.answers import Result
from rest.routes import Routes


class OpenIdRoutes(Routes):
    def __init__(self, openid: OpenId) -> None:
        self._openid = openid

    @get("/_matrix/federation/v1/openid/userinfo", auth=Auth.NONE)
    async def userinfo(self, call: Call) -> Result:
        token = call.query("access_token")
        if not token:
            raise MatrixError(401, "M_MISSING_TOKEN", "Missing access token")
        user_id = await self._openid.user_of(token)
        if user_id is None:
            raise MatrixError(401, "M_UNKNOWN_TOKEN", "Access token unknown or expired")
        return {"sub": user_id}
