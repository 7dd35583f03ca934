"""How a replica is, for the other replicas and `weft doctor`."""

from collections.abc import Sequence
from pathlib import Path

from client_api.http import Auth, Call, get
from client_api.replicas import OtherReplicas
from homeserver.bus.consumer import Consumer
from homeserver.bus.replica import Replica
from homeserver.clock import Clock
from homeserver.doctor.health import PATH, health_of
from homeserver.doctor.stored import store_findings
from homeserver.errors import MatrixError
from rest.answers import Answer
from rest.routes import Routes
from storage.store import Store


class HealthRoutes(Routes):
    def __init__(
        self,
        others: OtherReplicas,
        replica: Replica,
        consumers: Sequence[Sequence[Consumer]],
        store: Store,
        key_path: Path,
        now: Clock,
    ) -> None:
        self._others = others
        self._replica = replica
        self._consumers = consumers
        self._store = store
        self._key_path = key_path
        self._now = now

    @get(PATH, auth=Auth.NONE)
    async def health(self, call: Call) -> Answer:
        if not self._others.is_replica(call.request):
            raise MatrixError(403, "M_FORBIDDEN", "For replicas of this server")
        store = await store_findings(self._store, self._key_path, self._now)
        return Answer(
            health_of(
                self._replica,
                [consumer for family in self._consumers for consumer in family],
                server_name=self._store.info.server_name,
                now=self._now(),
                store=store,
            )
        )
