"""A whole server in the test's process on a store of its own, and clients that talk real HTTP to it.

Every test runs on each of the `STORES`.

Every answer is checked against the specification's own data where that lies beside the repository.
"""

import importlib.util
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp
import msgspec
import pytest
from aiohttp import web
from msgspec.structs import replace
from yarl import URL

from homeserver.app.stores import opened_store
from homeserver.app.wiring import App
from homeserver.clock import system_clock
from homeserver.config import Config
from homeserver.config.options import Federation, Storage
from homeserver.config.units import SecretUri
from homeserver.server_key import establish, retired_keys
from rest.connections import runner_of
from storage.mongo.collection import Shape
from storage.mongo.connection import Connection
from storage.records.server_key import SERVER_KEY
from tests.stores import MongoDatabase, SqliteFile, StoredData

SPEC_TOOLS = Path(
    os.environ.get("MATRIX_SPEC_TOOLS", Path(__file__).resolve().parents[3] / "shared/spec/tools")
)


def _load_validator() -> Any:
    """The spec's validator, None in a bare clone."""
    path = SPEC_TOOLS / "validate.py"
    if not path.exists():
        return None
    found = importlib.util.spec_from_file_location("matrix_spec_validate", path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules["matrix_spec_validate"] = module
    found.loader.exec_module(module)
    return module.Validator()


VALIDATOR = _load_validator()


def pytest_report_header() -> str:
    where = "against the specification's data" if VALIDATOR else "without the specification's data (not here)"
    return f"client API answers are checked {where}"


class Reply(msgspec.Struct):
    """An HTTP answer with its JSON body."""

    status: int
    body: Any
    headers: dict[str, str]

    @property
    def errcode(self) -> str | None:
        return self.body.get("errcode") if isinstance(self.body, dict) else None


class Client:
    """One device (or, without a token, a stranger)."""

    def __init__(self, base: str, http: aiohttp.ClientSession, *, checked: bool = True) -> None:
        """`checked`: whether answers have to keep to the specification."""
        self._checked = checked
        self._base = base
        self._http = http
        self.token: str | None = None
        self.user_id = ""
        self.device_id = ""
        self.next_batch: str | None = None
        self._txn = 0

    def stranger(self) -> "Client":
        """Somebody on the same server who is not logged in."""
        return Client(self._base, self._http, checked=self._checked)

    async def call(
        self,
        method: str,
        path: str,
        json: Any = None,
        *,
        query: dict[str, Any] | list[tuple[str, str]] | None = None,
        data: Any = None,
        headers: dict[str, str] | None = None,
        expect: int | None = 200,
    ) -> Reply:
        """One request; `path` without `/_` is below /_matrix/client/v3. `expect=None` takes any status."""
        if not path.startswith(("/_", "/.")):
            path = "/_matrix/client/v3" + path
        if query:
            path += "?" + urlencode(query)
        sent = dict(headers or {})
        if self.token is not None:
            sent["Authorization"] = f"Bearer {self.token}"
        raw = data
        if raw is None and json is not None:
            raw = msgspec.json.encode(json)
            sent.setdefault("Content-Type", "application/json")
        url = URL(self._base + path, encoded=True)
        async with self._http.request(method, url, data=raw, headers=sent) as response:
            content = await response.read()
            is_json = response.headers.get("Content-Type", "").startswith("application/json")
            body = msgspec.json.decode(content) if is_json and content else content
            reply = Reply(response.status, body, dict(response.headers))
        own = path.startswith(("/_synapse/", "/_weft/")) or any(
            part in path
            for part in ("/unstable/", "msc4140.delay=", "/r0/", "/keys/upload/", "/static/", "/fallback/")
        )
        specified = self._checked and reply.errcode != "M_UNRECOGNIZED" and not own
        if is_json and VALIDATOR is not None and specified:
            problems = VALIDATOR.check_response(method, path, reply.status, reply.body)
            assert not problems, "\n".join(map(str, problems))
        if expect is not None:
            assert reply.status == expect, f"{method} {path}: {reply.status} {reply.body!r}"
        return reply

    async def get(self, path: str, **kwargs: Any) -> Any:
        return (await self.call("GET", path, **kwargs)).body

    async def post(self, path: str, json: Any = None, **kwargs: Any) -> Any:
        return (await self.call("POST", path, {} if json is None else json, **kwargs)).body

    async def put(self, path: str, json: Any = None, **kwargs: Any) -> Any:
        return (await self.call("PUT", path, {} if json is None else json, **kwargs)).body

    async def delete(self, path: str, json: Any = None, **kwargs: Any) -> Any:
        return (await self.call("DELETE", path, {} if json is None else json, **kwargs)).body

    # What people do

    async def register(self, localpart: str, password: str = "correct horse") -> "Client":
        body = await self.post(
            "/register",
            {"username": localpart, "password": password, "auth": {"type": "m.login.dummy"}},
        )
        self.token, self.user_id, self.device_id = body["access_token"], body["user_id"], body["device_id"]
        return self

    async def create_room(self, **options: Any) -> str:
        room_id: str = (await self.post("/createRoom", options))["room_id"]
        return room_id

    async def join(self, room_id: str) -> None:
        await self.post(f"/rooms/{quote(room_id)}/join")

    async def invite(self, room_id: str, user_id: str) -> None:
        await self.post(f"/rooms/{quote(room_id)}/invite", {"user_id": user_id})

    async def leave(self, room_id: str) -> None:
        await self.post(f"/rooms/{quote(room_id)}/leave")

    async def send(
        self, room_id: str, content: Any = None, type: str = "m.room.message", txn: str | None = None
    ) -> str:
        """Send an event (a text by default: pass a string for its body)."""
        if content is None or isinstance(content, str):
            content = {"msgtype": "m.text", "body": content or "hello"}
        if txn is None:
            self._txn += 1
            txn = f"t{self._txn}"
        reply = await self.put(f"/rooms/{quote(room_id)}/send/{quote(type)}/{quote(txn)}", content)
        event_id: str = reply["event_id"]
        return event_id

    async def set_state(self, room_id: str, type: str, content: Any, state_key: str = "") -> str:
        reply = await self.put(
            f"/rooms/{quote(room_id)}/state/{quote(type)}/{quote(state_key, safe='')}", content
        )
        event_id: str = reply["event_id"]
        return event_id

    async def redact(self, room_id: str, event_id: str, **content: Any) -> str:
        self._txn += 1
        reply = await self.put(
            f"/rooms/{quote(room_id)}/redact/{quote(event_id, safe='')}/r{self._txn}", content
        )
        redaction: str = reply["event_id"]
        return redaction

    async def sync(self, *, timeout: int = 0, filter: Any = None, full: bool = False, **query: Any) -> Any:
        """Sync from where the last one ended (`full=True`: from the start); the body."""
        if not full and self.next_batch is not None:
            query.setdefault("since", self.next_batch)
        if filter is not None:
            query["filter"] = msgspec.json.encode(filter).decode()
        body = await self.get("/sync", query={"timeout": timeout, **query})
        self.next_batch = body["next_batch"]
        return body


class Watch:
    """A clock that a test sets (ms)."""

    def __init__(self) -> None:
        self.ahead = 0

    def __call__(self) -> int:
        return system_clock() + self.ahead


class Server:
    """A running server; `restart` opens the same data again."""

    def __init__(self, data_dir: Path, data: StoredData, room_shards: int) -> None:
        self.data_dir = data_dir
        self.data = data
        self.clock = Watch()
        self._runner: web.BaseRunner | None = None
        self.base = ""
        self.http: aiohttp.ClientSession
        config = Config.for_development("localhost", data_dir, 8008)
        self.config = replace(
            config,
            storage=Storage(SecretUri(data.uri), room_shards=room_shards),
            federation=Federation(enabled=False),
        )

    async def start(self) -> None:
        store = await opened_store(self.config)
        known_key = store.collection(SERVER_KEY)
        await establish(self.config.signing_key_path, known_key)
        self.app = App(self.config, store, retired_keys=await retired_keys(known_key), now=self.clock)
        await self.app.start()
        self._runner = runner_of(self.app.web_application())
        await self._runner.setup()
        # A restarted server listens where it did, so that its clients find it again.
        site = web.TCPSite(self._runner, "127.0.0.1", URL(self.base).port or 0 if self.base else 0)
        await site.start()
        self.base = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        if self._runner is not None:
            self.app.answer_polls()
            await self._runner.cleanup()
            self._runner = None
            await self.app.close()

    async def restart(self, config: Config | None = None) -> None:
        """Stop, take another configuration if given, start again on the same data."""
        await self.stop()
        self.config = config or self.config
        await self.start()

    def client(self) -> Client:
        """A client that is not logged in."""
        return Client(self.base, self.http)

    async def register(self, localpart: str) -> Client:
        """A new user's first device."""
        return await self.client().register(localpart)


@pytest.fixture(scope="session")
def mongo() -> Iterator[MongoDatabase]:
    database = MongoDatabase()
    yield database
    database.destroy()


@pytest.fixture
def on_sqlite(tmp_path: Path) -> StoredData:
    return SqliteFile(tmp_path)


@pytest.fixture
def on_mongo(mongo: MongoDatabase, monkeypatch: pytest.MonkeyPatch) -> StoredData:
    mongo.empty()
    if mongo.has_indexes():
        # They are looked at once: one after the other, that takes as long as many a test.
        monkeypatch.setattr(Shape, "prepare", _nothing_to_prepare)
    return mongo


async def _nothing_to_prepare(shape: Shape[Any], connection: Connection) -> None:
    return


STORES = {"sqlite": "on_sqlite", "mongo": "on_mongo"}


@pytest.fixture(params=STORES)
def data(request: pytest.FixtureRequest) -> StoredData:
    """An empty store."""
    stored: StoredData = request.getfixturevalue(STORES[request.param])
    return stored


@pytest.fixture
def room_shards() -> int:
    """Into how many shards rooms are divided; a test that wants more is parametrized with it, on SQLite."""
    return 1


@pytest.fixture
async def server(tmp_path: Path, data: StoredData, room_shards: int) -> AsyncIterator[Server]:
    async with AsyncExitStack() as stack:
        running = Server(tmp_path / "data", data, room_shards)
        (tmp_path / "data").mkdir(mode=0o700)
        running.http = await stack.enter_async_context(aiohttp.ClientSession())
        await running.start()
        try:
            yield running
        finally:
            await running.stop()


@pytest.fixture
async def alice(server: Server) -> Client:
    return await server.register("alice")


@pytest.fixture
async def bob(server: Server) -> Client:
    return await server.register("bob")


@pytest.fixture
async def carol(server: Server) -> Client:
    return await server.register("carol")
