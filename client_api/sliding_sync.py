"""Simplified sliding sync (MSC4186), at the path that clients use today."""

from client_api.http import Call, route
from homeserver.presence.presence import Presence
from homeserver.sync.sliding.engine import SlidingSync
from homeserver.sync.sliding.request import SlidingRequest
from rest.answers import Result
from rest.routes import Routes

PATH = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"


class SlidingSyncRoutes(Routes):
    def __init__(self, sliding: SlidingSync, presence: Presence) -> None:
        self._sliding = sliding
        self._presence = presence

    @route("POST", PATH, quick=True)
    async def poll(self, call: Call) -> Result:
        request = call.json(SlidingRequest)
        session, pos = call.session, call.query("pos") or None
        timeout = call.int_query("timeout", 0)
        user_id, device_id = session.user_id, session.device_id
        set_presence = call.query("set_presence") or "online"
        del call, session
        here = self._presence.sync_begins(user_id, device_id, set_presence)
        try:
            return await self._sliding.poll(user_id, device_id, request, pos=pos, timeout=timeout)
        finally:
            self._presence.sync_ends(here)
