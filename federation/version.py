"""What this server runs (spec: server-server GET /version)."""

from federation.http import Auth, Call, get
from homeserver import __version__
from rest.answers import Result
from rest.routes import Routes


class VersionRoutes(Routes):
    @get("/_matrix/federation/v1/version", auth=Auth.NONE)
    async def version(self, call: Call) -> Result:
        return {"server": {"name": "Weft", "version": __version__}}
