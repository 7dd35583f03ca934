"""What this server speaks (spec: client-server "Server Discovery", "Capabilities negotiation")."""

from client_api.http import Auth, Call, Result, Routes, get

VERSIONS = ["r0.5.0", "r0.6.0", "r0.6.1", *(f"v1.{minor}" for minor in range(1, 20))]

UNSTABLE_FEATURES = {
    "org.matrix.simplified_msc3575": False,
    "org.matrix.msc4222": True,
}


class VersionRoutes(Routes):
    @get("/_matrix/client/versions", auth=Auth.OPTIONAL)
    async def versions(self, call: Call) -> Result:
        return {"versions": VERSIONS, "unstable_features": UNSTABLE_FEATURES}
