"""What this server speaks (spec: client-server "API Versions").

Clients look for features under the names that they had as proposals; those that are part of a listed
version are here for clients that ask for them all the same.
"""

import msgspec

from client_api.http import Auth, Call, Result, Routes, get

VERSIONS = ["r0.5.0", "r0.6.0", "r0.6.1", *(f"v1.{minor}" for minor in range(1, 20))]

UNSTABLE_FEATURES = {
    "org.matrix.msc4222": True,
}


class VersionRoutes(Routes):
    ANSWER = msgspec.json.encode({"versions": VERSIONS, "unstable_features": UNSTABLE_FEATURES})

    @get("/_matrix/client/versions", auth=Auth.NONE)
    async def versions(self, call: Call) -> Result:
        return self.ANSWER
