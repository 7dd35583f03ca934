"""TURN servers for calls (spec: client-server "Voice over IP")."""

import base64
import hashlib
import hmac

from client_api.http import Call, get
from homeserver.clock import Clock
from homeserver.config.options import Turn
from rest.answers import Result
from rest.routes import Routes


class VoipRoutes(Routes):
    """Credentials are made as TURN servers with a shared secret expect them, or are the configured ones.

    Without a TURN server the answer names none, as the specification wants it. Browsers refuse to begin a
    call with an empty list; MSC4166 would have 404 instead.
    """

    def __init__(self, turn: Turn, now: Clock) -> None:
        self._turn = turn
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


def turn_password(secret: str, username: str) -> str:
    """The password that a TURN server works out of the user name, "expiry:user" (TURN REST API)."""
    digest = hmac.new(secret.encode(), username.encode(), hashlib.sha1).digest()
    return base64.b64encode(digest).decode()
