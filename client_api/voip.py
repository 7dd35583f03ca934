"""What calls need: TURN servers (spec: client-server "Voice over IP"), and who carries those of many people
(MatrixRTC: MSC4143, MSC4195, not in the specification)."""

import base64
import hashlib
import hmac

from client_api.http import Auth, Call, get
from homeserver.clock import Clock
from homeserver.config.options import Calls, Turn
from homeserver.protocol.json_types import JsonObject
from rest.answers import Result
from rest.routes import Routes


class VoipRoutes(Routes):
    """Credentials are made as TURN servers with a shared secret expect them, or are the configured ones.

    Without a TURN server the answer names none, as the specification wants it. Browsers refuse to begin a
    call with an empty list; MSC4166 would have 404 instead.
    """

    def __init__(self, turn: Turn, calls: Calls, now: Clock) -> None:
        self._turn = turn
        self._transports = transports(calls)
        self._now = now

    @get("/voip/turnServer", limit="request")
    async def turn_server(self, call: Call) -> Result:
        turn = self._turn
        ttl = turn.lifetime // 1000
        username, password = turn.username or "", str(turn.password or "")
        if turn.shared_secret is not None:
            username = f"{self._now() // 1000 + ttl}:{call.user_id}"
            password = turn_password(turn.shared_secret, username)
        return {"username": username, "password": password, "uris": list(turn.uris), "ttl": ttl}

    @get("/_matrix/client/unstable/org.matrix.msc4143/rtc/transports", auth=Auth.GUEST, limit="request")
    async def rtc_transports(self, call: Call) -> Result:
        return {"rtc_transports": self._transports}


def transports(calls: Calls) -> list[JsonObject]:
    """Who carries group calls, as clients are told it."""
    return [{"type": "livekit", "livekit_service_url": url} for url in calls.livekit]


def turn_password(secret: str, username: str) -> str:
    """The password that a TURN server works out of the user name, "expiry:user" (TURN REST API)."""
    digest = hmac.new(secret.encode(), username.encode(), hashlib.sha1).digest()
    return base64.b64encode(digest).decode()
