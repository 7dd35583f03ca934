"""The connection to the database, and what is demanded of it.

A write counts when a majority of the replica set has it in its journal; a read shows only what a majority
has (`CONCERNS`). Operations run in sessions that see at least what this process has seen or written
before, whichever server answers: without that, a writer could number its entry behind one that the next
primary has never had, and leave a hole in the log.

The first operations that find no primary wait for one as long as an election may take. Those that come after
they have failed ask for a moment only, until one has answered: nobody waits half a minute for an answer that
is known.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, TypeVar

from bson.timestamp import Timestamp
from pymongo import AsyncMongoClient, ReadPreference, WriteConcern, timeout
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import (
    ConfigurationError,
    ConnectionFailure,
    InvalidURI,
    PyMongoError,
    ServerSelectionTimeoutError,
)
from pymongo.read_concern import ReadConcern
from pymongo.uri_parser import parse_uri

from storage.errors import StoreError, StoreRefused, StoreReplaced
from storage.mongo.faults import no_primary, opening_error, reading

log = logging.getLogger(__name__)

R = TypeVar("R")
Document = dict[str, Any]

OLDEST_SERVER = (6, 0)
OPENING_TIMEOUT_S = 10
TIMEOUT_MS = 30_000
"""Of one operation, its retry included: an election takes 12 s unless the server was told otherwise."""
AWAY_TIMEOUT_S = 1.0
"""How long a server that was away is asked whether it is back."""
IN_ONE_ANSWER = 1_000_000
"""Documents. An answer holds as many as 16 MiB do; a primary that dies before the next one takes those along,
and a read that is answered at once is repeated by the driver."""

CONCERNS: Mapping[str, Any] = {
    "write_concern": WriteConcern("majority", j=True),
    "read_concern": ReadConcern("majority"),
    "read_preference": ReadPreference.PRIMARY,
}
DEMANDED: Mapping[str, Any] = {
    "w": "majority",
    "journal": True,
    "readConcernLevel": "majority",
    "readPreference": "primary",
    "retryWrites": True,
}
"""What a URI may say of how safe operations are to be; it need not."""


class Connection:
    """One database, on the event loop that made it. Must be closed."""

    def __init__(self, client: AsyncMongoClient[Document], name: str, where: str) -> None:
        """`where` names the servers in messages."""
        self._client = client
        self.where = where
        self.database: AsyncDatabase[Document] = client.get_database(name, **CONCERNS)
        self._collections: dict[str, AsyncCollection[Document]] = {}
        self._seen: Timestamp | None = None
        self._away = False
        self._given_up: str | None = None

    def collection(self, name: str) -> AsyncCollection[Document]:
        """A collection of the database; the driver takes longer to make one than to find it here."""
        known = self._collections.get(name)
        if known is None:
            known = self._collections[name] = self.database[name]
        return known

    def give_up(self, why: str) -> None:
        """Nothing is read or written any more."""
        if self._given_up is None:
            self._given_up = why
            log.critical("%s: nothing of it is read or written any more. Start this server anew", why)

    @asynccontextmanager
    async def session(self) -> AsyncIterator[AsyncClientSession]:
        """For one operation after the other: each sees what any session here has seen or written.

        Raises StoreReplaced, and PyMongoError if no server is there and none was a moment ago.
        """
        if self._given_up is not None:
            raise StoreReplaced(self._given_up)
        if self._away:
            await self._look_again()
        began = time.monotonic()
        async with self._client.start_session(causal_consistency=True) as session:
            if self._seen is not None:
                session.advance_operation_time(self._seen)
            try:
                yield session
            except ConnectionFailure:
                # One that was only cut short has not waited for the next primary.
                if time.monotonic() - began >= AWAY_TIMEOUT_S:
                    self._away = True
                raise
            finally:
                seen = session.operation_time
                if seen is not None and (self._seen is None or seen > self._seen):
                    self._seen = seen

    async def _look_again(self) -> None:
        """Raises ServerSelectionTimeoutError unless the server is back: nothing was sent in any case."""
        try:
            with timeout(AWAY_TIMEOUT_S):
                await self._client.admin.command("ping")
        except PyMongoError as error:
            raise ServerSelectionTimeoutError(str(error)) from error
        self._away = False

    async def server_time(self) -> int:
        """By the clock of the database, ms since 1970. Raises PyMongoError."""
        hello = await self._client.admin.command("hello")
        return int(hello["localTime"].timestamp() * 1000)

    async def find(
        self,
        collection: str,
        where: Mapping[str, Any],
        *,
        hint: str,
        limit: int = 0,
        sort: Sequence[tuple[str, int]] | None = None,
        fields: Mapping[str, int] | None = None,
    ) -> list[Document]:
        """The documents of a query that the index named `hint` serves; limit 0: all of them.

        Raises StoreUnavailable.
        """
        return await self.read(
            lambda session: (
                self.collection(collection)
                .find(where, fields, hint=hint, limit=limit, sort=sort, session=session)
                .batch_size(limit or IN_ONE_ANSWER)
                .to_list()
            )
        )

    async def aggregate(
        self, collection: str, pipeline: Sequence[Mapping[str, Any]], *, hint: str
    ) -> list[Document]:
        """What a pipeline gives that the index named `hint` serves. Raises StoreUnavailable."""

        async def aggregated(session: AsyncClientSession) -> list[Document]:
            cursor = await self.collection(collection).aggregate(
                pipeline, hint=hint, batchSize=IN_ONE_ANSWER, session=session
            )
            return await cursor.to_list()

        return await self.read(aggregated)

    async def read(self, operation: Callable[[AsyncClientSession], Awaitable[R]]) -> R:
        """What an operation that changes nothing gives, in a session. Raises StoreUnavailable."""

        async def in_session() -> R:
            async with self.session() as session:
                return await operation(session)

        with reading():
            return await undisturbed(in_session())

    async def close(self) -> None:
        # A server that is away is not waited for to tell it good-bye.
        with timeout(AWAY_TIMEOUT_S):
            await self._client.close()


async def undisturbed(operation: Awaitable[R]) -> R:
    """Await an operation of the driver that goes on by itself when its caller is cancelled.

    The driver must not be cancelled: where it waits for a server, it may be left holding its own lock, and
    nothing is read or written any more.
    """
    task = asyncio.ensure_future(operation)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        _going_on.add(task)
        task.add_done_callback(_ended)
        raise


async def whole(write: Coroutine[Any, Any, R]) -> R:
    """Await a write that a cancellation does not cut short: it is through before the caller is cancelled."""
    task = asyncio.ensure_future(write)
    try:
        return await undisturbed(task)
    except asyncio.CancelledError:
        await asyncio.wait((task,))
        raise


_going_on: set[asyncio.Future[Any]] = set()
"""Operations that nobody waits for any more."""


def _ended(task: asyncio.Future[Any]) -> None:
    _going_on.discard(task)
    if not task.cancelled():
        task.exception()  # Nobody is left who could be told.


async def connect(uri: str) -> Connection:
    """A connection to the database of a `mongodb://` URI, on a server that is fit for it.

    Raises StoreRefused and StoreUnavailable, with what to do.
    """
    target = _parsed(uri)
    client = target.client(retry_writes=True)
    try:
        with timeout(OPENING_TIMEOUT_S):
            hello = await client.admin.command("hello")
            build = await client.admin.command("buildInfo")
        _check_version(build, target.where)
        if not hello["isWritablePrimary"]:
            raise no_primary(target.where)
    except PyMongoError as error:
        answering = _answering(client)
        await client.close()
        raise (no_primary(target.where) if answering else opening_error(error, target.where)) from error
    except StoreError:
        await client.close()
        raise
    if "setName" not in hello and hello.get("msg") != "isdbgrid":
        log.warning(
            "MongoDB at %s is a server by itself: what its disk loses is lost, and writes are not retried. "
            "Start it with --replSet for anything but trials",
            target.where,
        )
        await client.close()
        client = target.client(retry_writes=False)
    return Connection(client, target.database, target.where)


class _Target(NamedTuple):
    """A URI and what it says. `where` names the servers, without credentials."""

    uri: str
    database: str
    where: str
    timeout_ms: int

    def client(self, *, retry_writes: bool) -> AsyncMongoClient[Document]:
        """Raises StoreRefused."""
        try:
            return AsyncMongoClient(
                self.uri, retryWrites=retry_writes, timeoutMS=self.timeout_ms, appname="weft", tz_aware=True
            )
        except (ConfigurationError, OSError, ValueError) as error:
            raise _unfit(error) from error


def _parsed(uri: str) -> _Target:
    """Raises StoreRefused."""
    try:
        parsed = parse_uri(uri, warn=True)
    except (InvalidURI, ConfigurationError, ValueError) as error:
        raise StoreRefused(f"storage.uri is no URI of MongoDB: {error}") from error
    except OSError as error:
        raise _unfit(error) from error
    options = parsed["options"]
    where = ",".join(f"{host}:{port}" for host, port in parsed["nodelist"])
    if not parsed["database"]:
        raise StoreRefused(f"storage.uri names no database: write mongodb://{where}/weft, then the options")
    if parsed["collection"]:
        raise StoreRefused(
            f"storage.uri names the database {parsed['database']}.{parsed['collection']}: "
            "leave the dots out of its name"
        )
    for option, demanded in DEMANDED.items():
        if options.get(option, demanded) != demanded:
            raise StoreRefused(
                f"storage.uri says {option}={options[option]}, with which acknowledged events could be lost: "
                "leave that option out"
            )
    # The parser gives seconds, under a name in small letters.
    timeout_ms = int(options["timeoutms"] * 1000) if "timeoutms" in options else TIMEOUT_MS
    return _Target(uri, parsed["database"], where, timeout_ms)


def _unfit(error: Exception) -> StoreRefused:
    """Options that do not go together, or that name files which cannot be read."""
    return StoreRefused(f"storage.uri has options that will not do: {error}")


def _answering(client: AsyncMongoClient[Document]) -> bool:
    """Whether servers answer of which none is the primary: otherwise one of them would have been asked."""
    servers = client.topology_description.server_descriptions().values()
    return any(server.server_type_name.startswith("RS") for server in servers) and not any(
        server.is_writable for server in servers
    )


def _check_version(build: Mapping[str, Any], where: str) -> None:
    if tuple(build["versionArray"][:2]) < OLDEST_SERVER:
        oldest = ".".join(map(str, OLDEST_SERVER))
        raise StoreRefused(
            f"MongoDB at {where} is {build['version']}, and Weft needs {oldest} or newer: upgrade the server"
        )
