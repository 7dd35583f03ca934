"""Pushers (spec: client-server "Push Notifications")."""

from client_api.http import Call, get, post
from homeserver.push.pushers import PusherRequest, Pushers, pusher_json
from homeserver.users.sessions import Sessions
from rest.answers import Result
from rest.routes import Routes


class PusherRoutes(Routes):
    def __init__(self, pushers: Pushers, sessions: Sessions) -> None:
        self._pushers = pushers
        self._sessions = sessions

    @get("/pushers")
    async def of_user(self, call: Call) -> Result:
        return {"pushers": [pusher_json(pusher) for pusher in await self._pushers.of_user(call.user_id)]}

    @post("/pushers/set", limit="request")
    async def set_pusher(self, call: Call) -> Result:
        await self._pushers.set(call.user_id, call.session.device_id, call.json(PusherRequest))
        await self._sessions.forget_if_ended(call.session)
        return {}
