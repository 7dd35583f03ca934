"""What this server speaks (spec: client-server "API Versions")."""

import msgspec

from client_api.http import Auth, Call, get
from rest.answers import Result
from rest.routes import Routes

VERSIONS = ["r0.5.0", "r0.6.0", "r0.6.1", *(f"v1.{minor}" for minor in range(1, 20))]

UNSTABLE_FEATURES = dict.fromkeys(
    (
        # Not in the specification.
        "org.matrix.simplified_msc3575",
        "org.matrix.msc3814",
        "org.matrix.msc4140",
        # In it by now, under names that clients still ask for.
        "com.beeper.msc4169",
        "org.matrix.e2e_cross_signing",
        "org.matrix.msc2285.stable",
        "org.matrix.msc2432",
        "org.matrix.msc3440.stable",
        "org.matrix.msc3715.stable",
        "org.matrix.msc3771",
        "org.matrix.msc3773",
        "org.matrix.msc3827.stable",
        "org.matrix.msc3856.stable",
        "org.matrix.msc3916.stable",
        "org.matrix.msc3952_intentional_mentions",
        "org.matrix.msc3981",
        "org.matrix.msc4222",
        "uk.half-shot.msc2666.query_mutual_rooms",
        "uk.tcpip.msc4133",
        "uk.tcpip.msc4133.stable",
    ),
    True,
)
"""Whatever is not listed here, clients take as not supported."""


class VersionRoutes(Routes):
    ANSWER = msgspec.json.encode({"versions": VERSIONS, "unstable_features": UNSTABLE_FEATURES})

    @get("/_matrix/client/versions", auth=Auth.NONE)
    async def versions(self, call: Call) -> Result:
        return self.ANSWER
