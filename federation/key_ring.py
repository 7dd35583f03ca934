"""Which keys other servers sign with: remembered, stored, fetched.

A server is asked itself, and when it does not answer, the configured notaries are. An answer is checked by
its own signature, whoever passed it on. Asking is bounded: one request to a server at a time, at most one a
minute, with pauses for those that do not answer; and nobody waits for servers whose keys they do not need.

spec: server-server#retrieving-server-keys
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import orjson
import structlog

from federation.backoff import Backoff
from federation.errors import FederationError, InvalidAnswer
from federation.own_keys import OwnKeys
from federation.published_keys import InvalidKeys, contradicts, read_keys, with_earlier
from federation.transport import Transport
from homeserver.clock import Clock
from homeserver.protocol.canonical_json import InvalidJson, encode, loads_strict
from homeserver.protocol.identifiers import InvalidIdentifier, check_server_name
from homeserver.protocol.json_types import JsonObject
from homeserver.protocol.room_versions import RoomVersion
from homeserver.protocol.server_acl import ServerAcl
from homeserver.protocol.signing import (
    InvalidSignature,
    VerifyKey,
    required_signers,
    verify_event_signature,
    verify_event_signatures,
    verify_json_signature,
)
from homeserver.single_flight import SingleFlight
from storage.collection import Collection
from storage.records.remote_keys import RemoteKey, RemoteKeys

log = structlog.get_logger(__name__)

FETCH_SECONDS = 15.0
MAX_BYTES = 64 * 1024
MAX_DEPTH = 10
LEAST_BETWEEN_MS = 60_000
"""Between two answers of a server: keys that it does not have are no reason to ask it all the time."""
MAX_REMEMBERED = 10_000
SERVERS_AT_ONCE = 200
EVENTS_AT_ONCE = 50
"""Checked in one go in a thread, which is worth it for more than a few."""
FEW_EVENTS = 8
FIRST_PAUSE_MS = 5_000
LONGEST_PAUSE_MS = 600_000
NOTARY_NEEDS = 20
"""Told to a notary: most servers have one key, and an answer has all of them."""
SIGNATURES_TRIED = 3

BeforeAsking = Callable[[int], None]
"""Told how many servers are about to be asked; raises MatrixError 429 when these are too many."""


class UnknownKey(Exception):
    """No key by that name is known of the server, or it does not hold now."""


@dataclass(frozen=True, slots=True)
class _Known:
    """The keys of a server by id."""

    keys: Mapping[str, RemoteKey]
    fetched_ts: int

    def has_all(self, needs: "Sequence[_Need]") -> bool:
        """Whether for each need one of its keys is there and will do."""
        return all(any(need.is_met_by(self.keys.get(key_id)) for key_id in need.key_ids) for need in needs)


@dataclass(frozen=True, slots=True)
class _Need:
    """One of these keys is needed."""

    key_ids: tuple[str, ...]
    at: int | None
    """When it has to be valid (ms); None: at any time."""
    current: bool = False
    """Whether the server has to use it still."""

    def is_met_by(self, key: RemoteKey | None) -> bool:
        return (
            key is not None
            and (self.at is None or self.at <= key.valid_until)
            and (key.current or not self.current)
        )


_NOTHING = _Known({}, 0)


class KeyRing:
    """The keys of all servers, this one's included."""

    def __init__(
        self,
        own: OwnKeys,
        stored: Collection[RemoteKeys],
        transport: Transport,
        allowed: ServerAcl,
        now: Clock,
        *,
        notaries: Sequence[str] = (),
    ) -> None:
        self._own = own
        self._stored = stored
        self._transport = transport
        self._allowed = allowed
        # Whoever sends a request is alive, and must not wait long until its key is asked for again.
        self._backoff = Backoff(now, first_ms=FIRST_PAUSE_MS, longest_ms=LONGEST_PAUSE_MS)
        self._now = now
        self._notaries = notaries
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._fetching: SingleFlight[str, _Known] = SingleFlight()

    async def request_key(self, server_name: str, key_id: str) -> str:
        """The public key with which a server signs requests now. Raises UnknownKey and StoreError."""
        need = _Need((key_id,), self._now(), current=True)
        known = await self._obtain(server_name, (need,))
        if not known.has_all((need,)):
            raise UnknownKey(f"{server_name} is not known to sign with {key_id} now")
        return known.keys[key_id].verify_key

    async def check_signed(self, server_name: str, version: RoomVersion, pdu: JsonObject) -> None:
        """Raises InvalidSignature unless a server has signed an event by a key that it has now; StoreError.

        For events that keep to the format, and that the server need not have signed by what they say.
        """
        own = pdu["signatures"].get(server_name, {})
        for key_id in list(own)[:SIGNATURES_TRIED]:
            with suppress(UnknownKey):
                key = await self.request_key(server_name, key_id)
                verify_event_signature(version, pdu, server_name, key_id, key)
                return
        raise InvalidSignature(f"the event is not signed by a key that {server_name} has now")

    async def verify(self, events: Sequence[tuple[RoomVersion, JsonObject]]) -> list[InvalidSignature | None]:
        """What is wrong with the signatures of each of these events, which keep to the event format.

        None where nothing is. Takes as long as the slowest of their servers. Raises StoreError.
        """
        problems: list[InvalidSignature | None] = []
        needs: dict[str, list[_Need]] = {}
        for version, pdu in events:
            try:
                signers = required_signers(version, pdu)
            except InvalidSignature as error:
                problems.append(error)
                continue
            problems.append(None)
            for server in signers:
                wanted = needs.setdefault(server, [])
                if need := _event_need(version, pdu, server):
                    wanted.append(need)
        slots = asyncio.Semaphore(SERVERS_AT_ONCE)

        async def obtain(server: str) -> Mapping[str, VerifyKey]:
            if server == self._own.server_name:
                return self._own.verify_keys()
            async with slots:
                known = await self._obtain(server, needs[server])
            return {key.key_id: VerifyKey(key.verify_key, key.valid_until) for key in known.keys.values()}

        obtained = await asyncio.gather(*(obtain(server) for server in needs))
        keys = dict(zip(needs, obtained, strict=True))

        def check(first: int) -> None:
            for place in range(first, min(first + EVENTS_AT_ONCE, len(events))):
                if problems[place] is None:
                    try:
                        verify_event_signatures(*events[place], keys)
                    except InvalidSignature as error:
                        problems[place] = error

        if len(events) <= FEW_EVENTS:
            check(0)
        else:
            for first in range(0, len(events), EVENTS_AT_ONCE):
                await asyncio.to_thread(check, first)
        return problems

    async def published(self, servers: Mapping[str, int], before_asking: BeforeAsking) -> list[JsonObject]:
        """What servers last said of their keys, asked again if that does not hold until then.

        Or if half of its time is over. Of those that never said anything there is nothing. Raises StoreError,
        and what `before_asking` does.
        """
        records = await self._records(servers)
        asked = [
            server for server, until in servers.items() if self._is_due(server, records.get(server), until)
        ]
        if asked:
            before_asking(len(asked))
            await asyncio.gather(
                *(self._fetching.run(server, partial(self._fetch, server, ())) for server in asked)
            )
            records.update(await self._records(asked))
        return [orjson.loads(record.answer) for record in records.values()]

    async def _records(self, servers: Iterable[str]) -> dict[str, RemoteKeys]:
        found = await self._stored.get_many([(server,) for server in servers])
        return {record.server_name: record for record in found}

    def _is_due(self, server: str, record: RemoteKeys | None, valid_until: int) -> bool:
        """Whether a server is to be asked for keys that hold until then, and may be."""
        now = self._now()
        if record is not None and (
            self._is_recent(record.fetched_ts)
            or (
                record.valid_until >= valid_until
                and record.fetched_ts <= now <= (record.fetched_ts + record.valid_until) // 2
            )
        ):
            return False
        return self._may_ask(server)

    async def close(self) -> None:
        await self._fetching.close()

    async def _obtain(self, server: str, needs: Sequence[_Need]) -> _Known:
        """What is known of a server, which is asked when these needs are not met."""
        known = self._known.get(server, _NOTHING)
        if not known.has_all(needs):
            # Another replica may have asked it meanwhile.
            record = await self._stored.get(server)
            known = _NOTHING if record is None else self._remember(record)
        if known.has_all(needs):
            return known
        return await self._fetching.run(server, lambda: self._fetch(server, needs))

    def _remember(self, record: RemoteKeys) -> _Known:
        known = _Known({key.key_id: key for key in record.keys}, record.fetched_ts)
        self._known[record.server_name] = known
        self._known.move_to_end(record.server_name)
        if len(self._known) > MAX_REMEMBERED:
            self._known.popitem(last=False)
        return known

    async def _fetch(self, server: str, needs: Sequence[_Need]) -> _Known:
        """What is known of a server after asking it, if it is time to ask."""
        before = await self._stored.get(server)
        known = _NOTHING if before is None else self._remember(before)
        if not self._may_ask(server) or self._is_recent(known.fetched_ts):
            return known
        keys: RemoteKeys | None
        try:
            keys = await self._from_itself(server)
            self._backoff.alive(server)
        except (FederationError, InvalidKeys) as error:
            self._backoff.failed(server)
            log.info("no keys from a server", server=server, reason=str(error))
            keys = await self._from_notaries(server, needs, before)
        if keys is None:
            return known
        if before is not None:
            keys = with_earlier(keys, before)
        await self._stored.put(keys)
        return self._remember(keys)

    def _is_recent(self, fetched_ts: int) -> bool:
        """Whether a server has just been asked; by a clock that was ahead it may seem to be yet to come."""
        return abs(self._now() - fetched_ts) < LEAST_BETWEEN_MS

    def _may_ask(self, server: str) -> bool:
        try:
            check_server_name(server)
        except InvalidIdentifier:
            return False
        return (
            server != self._own.server_name
            and self._allowed.allows(server)
            and not self._backoff.wait_ms(server)
        )

    async def _from_itself(self, server: str) -> RemoteKeys:
        """Raises FederationError and InvalidKeys."""
        answer = await self._exchange(server, "GET", "/_matrix/key/v2/server", None)
        return read_keys(answer, server, self._now())

    async def _from_notaries(
        self, server: str, needs: Sequence[_Need], before: RemoteKeys | None
    ) -> RemoteKeys | None:
        """What the first notary says that knows more than what the server said itself, and nothing else.

        Notaries are not asked about each other: two that are away would wait for one another.
        """
        for notary in self._notaries if server not in self._notaries else ():
            try:
                keys = await self._from_notary(notary, server, needs)
                if before is None or (
                    keys.valid_until > before.valid_until and not contradicts(keys, before)
                ):
                    return keys
            except (FederationError, InvalidKeys, InvalidSignature) as error:
                log.info("no keys from a notary", server=server, notary=notary, reason=str(error))
        return None

    async def _from_notary(self, notary: str, server: str, needs: Sequence[_Need]) -> RemoteKeys:
        """The answer has to be signed by the server and by the notary."""
        now = self._now()
        # Synapse asks the server only about keys that are named, and tells what it knows otherwise.
        keys_wanted = {
            key_id: {"minimum_valid_until_ts": now if need.at is None else min(max(need.at, 0), now)}
            for need in needs[:NOTARY_NEEDS]
            for key_id in need.key_ids[:NOTARY_NEEDS]
        }
        query: JsonObject = {"server_keys": {server: keys_wanted}}
        answer = await self._exchange(notary, "POST", "/_matrix/key/v2/query", query)
        found = answer.get("server_keys")
        for keys in found if isinstance(found, list) else ():
            if isinstance(keys, dict) and keys.get("server_name") == server:
                await self._check_notary(notary, keys)
                return read_keys(keys, server, self._now())
        raise InvalidKeys("the notary does not know the server")

    async def _check_notary(self, notary: str, keys: JsonObject) -> None:
        signatures = keys.get("signatures")
        own = signatures.get(notary) if isinstance(signatures, dict) else None
        for key_id in list(own)[:SIGNATURES_TRIED] if isinstance(own, dict) else ():
            with suppress(UnknownKey):
                verify_json_signature(keys, notary, key_id, await self.request_key(notary, key_id))
                return
        raise InvalidSignature("the answer is not signed by a key that the notary has now")

    async def _exchange(
        self, server: str, method: str, target: str, content: JsonObject | None
    ) -> JsonObject:
        answer = await self._transport.exchange(
            server,
            method,
            target,
            seconds=FETCH_SECONDS,
            max_bytes=MAX_BYTES,
            headers=None if content is None else {"Content-Type": "application/json"},
            body=None if content is None else encode(content),
        )
        if answer.status != 200:
            raise InvalidAnswer(server, f"asked for keys, it answered {answer.status}")
        try:
            return loads_strict(answer.body, max_depth=MAX_DEPTH)
        except InvalidJson as error:
            raise InvalidAnswer(server, str(error)) from None


def _event_need(version: RoomVersion, pdu: JsonObject, server: str) -> _Need | None:
    """What it takes to check a server's signature of an event, None if there is no signature."""
    signatures = pdu.get("signatures")
    own = signatures.get(server) if isinstance(signatures, dict) else None
    if not own or not isinstance(own, dict):
        return None
    made = pdu.get("origin_server_ts")
    valid_at = made if version.enforce_key_validity and isinstance(made, int) else None
    return _Need(tuple(own), valid_at)
