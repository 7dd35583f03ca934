"""Between replicas: a room's write is passed on to the replica that owns the room's shard.

Where two replicas write to one shard, each loses half of its attempts; where one does, its appends are
grouped. So whoever gets a request that writes to a room hands it to the owner as it is, and does it itself
when the owner is not there. One that only takes long, since it asks other servers, is waited for: it says
meanwhile that it is there. That is speed, never correctness: the log settles who was first, and a client's
transaction is carried out once wherever it is tried.

Replicas prove themselves to each other by a token made from the signing key, which all of them have.
"""

import asyncio
import hmac
import time
from collections.abc import Sequence

import aiohttp
import structlog
from aiohttp import web
from yarl import URL

from client_api.http import Auth, Call, post
from homeserver.bus.consumer import Consumer
from homeserver.bus.replica import Replica
from homeserver.errors import MatrixError
from homeserver.protocol.json_types import JsonObject
from homeserver.protocol.signing import SigningKey
from rest.json_response import CORS
from rest.routes import Routes
from storage.log import ShardMap

log = structlog.get_logger(__name__)

HEADER = "X-Weft-Replica"
CONNECT_SECONDS = 1.0
ANSWER_SECONDS = 5.0
"""How long an owner that says nothing is waited for."""
LONGEST_SECONDS = 600.0
SILENT_SECONDS = 1.0
"""How long an owner that did not answer is left alone."""
HANDLED_SECONDS = 2.0
MAX_CONNECTIONS = 256
THERE = "/_weft/internal/there"
PASSED_ON = ("Authorization", "Content-Type", "User-Agent")


def replica_token(key: SigningKey) -> str:
    """What replicas of one server know, and nobody else."""
    return hmac.new(key.seed, b"weft replica", "sha256").hexdigest()


class OtherReplicas:
    """The others, and what this replica asks them."""

    def __init__(self, replica: Replica, shards: ShardMap, token: str) -> None:
        self._replica = replica
        self._shards = shards
        self._token = token
        self._http: aiohttp.ClientSession | None = None
        self._silent: dict[str, float] = {}

    def is_replica(self, request: web.Request) -> bool:
        """Whether a request was passed on by another replica."""
        token = request.headers.get(HEADER)
        return token is not None and hmac.compare_digest(token.encode(), self._token.encode())

    def elsewhere(self, room_id: str) -> str | None:
        """The address of the replica that should write to a room, None when that is this one."""
        return self._owner(self._shards.of_room(room_id))

    def _owner(self, shard: int) -> str | None:
        if self._replica.owns(shard):
            return None
        address = self._replica.ownership.addresses.get(shard)
        if address is None or self._silent.get(address, 0.0) > time.monotonic():
            return None
        return address

    async def pass_on(
        self, address: str, request: web.Request, body: bytes, client: str
    ) -> web.Response | None:
        """What the owner answers, None when it does not. `client` is the address the request came from."""
        headers = {name: request.headers[name] for name in PASSED_ON if name in request.headers}
        headers["X-Forwarded-For"] = client
        answer = asyncio.create_task(
            self._ask(address, request.method, request.raw_path, headers, body, seconds=LONGEST_SECONDS),
            name="ask-owner",
        )
        try:
            while not (await asyncio.wait([answer], timeout=ANSWER_SECONDS))[0]:
                if await self._ask(address, "POST", THERE, {}, b"") is None:
                    return None
            return await answer
        finally:
            answer.cancel()

    async def refresh(self, user_id: str, room_id: str | None, all_rooms: bool) -> None:
        """Follow the log to where a user and a room are now: the last request may have been elsewhere."""
        shards = [self._shards.of_user(user_id)]
        if all_rooms:
            shards.extend(self._shards.room_shards())
        elif room_id is not None:
            shards.append(self._shards.of_room(room_id))
        await self._replica.refresh(shards)

    async def handled(self, consumer: str, shard: int, seq: int) -> None:
        """Wait until the owner's consumer has handled an entry; not for long, and not if it is silent."""
        address = self._owner(shard)
        if address is not None:
            await self._ask(address, "POST", f"/_weft/internal/handled/{consumer}/{shard}/{seq}", {}, b"")

    async def _ask(
        self,
        address: str,
        method: str,
        path: str,
        headers: dict[str, str],
        body: bytes,
        *,
        seconds: float | None = None,
    ) -> web.Response | None:
        """What a replica answers within so long, None when it does not."""
        if self._http is None:
            self._http = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit_per_host=MAX_CONNECTIONS), auto_decompress=False
            )
        headers[HEADER] = self._token
        timeout = aiohttp.ClientTimeout(total=seconds or ANSWER_SECONDS, connect=CONNECT_SECONDS)
        try:
            # The path goes out exactly as it came in.
            url = URL(f"http://{address}{path}", encoded=True)
            async with self._http.request(
                method, url, headers=headers, data=body, timeout=timeout
            ) as response:
                answer = web.Response(
                    body=await response.read(),
                    status=response.status,
                    headers=CORS,
                    content_type=response.content_type,
                )
                if "Retry-After" in response.headers:
                    answer.headers["Retry-After"] = response.headers["Retry-After"]
                return answer
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            log.warning("owner does not answer", address=address, error=repr(error))
            self._silent[address] = time.monotonic() + SILENT_SECONDS
            return None

    async def close(self) -> None:
        if self._http is not None:
            await self._http.close()


class ReplicaRoutes(Routes):
    """What replicas ask each other."""

    def __init__(
        self,
        others: OtherReplicas,
        replica: Replica,
        of_rooms: Sequence[Consumer],
        of_users: Sequence[Consumer],
    ) -> None:
        self._others = others
        self._replica = replica
        self._consumers = (of_rooms, of_users)

    @post(THERE, auth=Auth.NONE)
    async def there(self, call: Call) -> JsonObject:
        """Says that this replica is there, however long something else takes."""
        self._check(call)
        return {}

    @post("/_weft/internal/handled/{consumer}/{shard}/{seq}", auth=Auth.NONE)
    async def handled(self, call: Call) -> JsonObject:
        """Answers once this replica's consumer has handled an entry of a shard."""
        self._check(call)
        shard, seq = int(call.path("shard")), int(call.path("seq"))
        name, consumers = call.path("consumer"), self._consumers[shard >= ShardMap.USER_BASE]
        await self._replica.reach({shard: seq})
        for consumer in consumers:
            if consumer.name == name:
                await asyncio.wait_for(consumer.handled(shard, seq), HANDLED_SECONDS)
        return {}

    def _check(self, call: Call) -> None:
        """Raises 403 for who is no replica of this server."""
        if not self._others.is_replica(call.request):
            raise MatrixError(403, "M_FORBIDDEN", "For replicas of this server")
