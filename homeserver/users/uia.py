"""User-interactive authentication: a request that has to be confirmed in stages before it is carried out.

Each attempt of a client is one call of `Uia.authenticate`, which returns when all stages of one of the
flows are done, and raises a `Challenge` (401 with the flows) as long as they are not. What is known in
between is a `UiaSession` record under the digest of the session's id. It is bound to what was asked
(method and path) and by whom (user and device), passes once, and expires.

A client may come back with nothing but the session's id, once a stage was completed in a browser: so
the session remembers the body of the request, enciphered by the id, as there may be a password in it.

spec: client-server "User-Interactive Authentication API"
"""

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

import msgspec
import orjson
from nacl.secret import SecretBox

from homeserver.clock import Clock
from homeserver.errors import MatrixError, bad_json, too_large
from homeserver.protocol.json_types import JsonObject
from homeserver.users.tokens import digest_of, keep_until_expiry, new_token
from storage.collection import Collection
from storage.records.accounts import UiaSession

LIFETIME_MS = 60 * 60_000
MAX_SESSIONS = 50
"""Of one user or one address at a time; beyond it the oldest goes."""
MAX_PARAMETERS = 64 * 1024

T = TypeVar("T")

Flow = tuple[str, ...]
"""Stages in the order in which they are to be completed."""
Check = Callable[[JsonObject], Awaitable[T]]
"""Reads the parameters of a request, before anything is proved; raises MatrixError for what cannot be."""
Admit = Callable[[T], None]
"""Has the last word when all is proved; what it raises leaves the session as it is, for another attempt."""


class StageFailed(Exception):
    """A stage was attempted in vain; the client may try again."""

    def __init__(self, errcode: str, error: str) -> None:
        super().__init__(error)
        self.errcode = errcode
        self.error = error


class Stage(Protocol):
    """One way to prove something."""

    def params(self) -> JsonObject | None:
        """What clients need to know for it."""
        ...

    async def attempt(self, user_id: str | None, auth: JsonObject) -> str:
        """What was proved, in the stage's own words. `user_id` is whose request it is.

        Raises StageFailed; 429 and the like go to the client as they are.
        """
        ...


class Attempt(NamedTuple):
    """One request of a client. `body` is as it came, `auth` included."""

    operation: str
    """Method and path."""
    user_id: str | None
    device_id: str | None
    address: str
    body: JsonObject


class Passed(NamedTuple, Generic[T]):
    """A request that may be carried out."""

    parameters: T
    proofs: Mapping[str, str]
    """What each stage proved."""


class Challenge(MatrixError):
    """401: more is to be proved. Has an errcode only when an attempt failed."""

    def __init__(self, failure: StageFailed | None, **extra: object) -> None:
        super().__init__(401, failure.errcode if failure else "", failure.error if failure else "", **extra)


class Uia:
    """All sessions of user-interactive authentication."""

    def __init__(self, sessions: Collection[UiaSession], stages: Mapping[str, Stage], now: Clock) -> None:
        self._sessions = sessions
        self._stages = stages
        self._now = now

    async def authenticate(
        self, attempt: Attempt, flows: Sequence[Flow], check: Check[T], admit: Admit[T] | None = None
    ) -> Passed[T]:
        """Returns when a flow is completed, and then the session is over.

        Raises Challenge, 400 for a malformed `auth`, and what `check` and `admit` raise.
        """
        auth = attempt.body.get("auth")
        if auth is not None and not isinstance(auth, dict):
            raise bad_json("auth must be an object")
        claimed = auth.get("session") if auth is not None else None
        session_id = claimed if isinstance(claimed, str) else ""
        stored = await self._stored(session_id, attempt) if session_id else None
        failure: StageFailed | None = None
        if stored is not None:
            remembered = _decipher(session_id, stored.parameters)
        else:
            if claimed:
                failure = StageFailed("M_UNKNOWN", "The session has expired, or is for something else")
            session_id, remembered = new_token(), {}
        session = stored or self._new(session_id, attempt, flows)
        given = {name: value for name, value in attempt.body.items() if name != "auth"} or remembered
        parameters = await check(given)
        if failure is None and auth is not None:
            session, failure = await self._advance(session, auth)
        if failure is None and tuple(session.completed) in session.flows:
            if admit is not None:
                admit(parameters)
            if stored is None or await self._sessions.delete(session.digest):
                return Passed(parameters, session.completed)
            raise MatrixError(400, "M_UNKNOWN", "The session has been used already")
        if stored is None or given != remembered:
            session = msgspec.structs.replace(session, parameters=_encipher(session_id, given))
        session = await self._store(stored, session)
        raise self._challenge(session_id, session, failure)

    # For the pages in a browser

    async def session(self, session_id: str) -> UiaSession | None:
        """A session under way."""
        session = await self._sessions.get(digest_of(session_id))
        return session if session is not None and session.expires_ts > self._now() else None

    async def complete(self, session_id: str, auth: JsonObject) -> None:
        """Attempt a stage apart from the request itself. Raises StageFailed; 400 for an unknown session."""
        stored = await self.session(session_id)
        if stored is None:
            raise MatrixError(400, "M_UNKNOWN", "The session has expired")
        session, failure = await self._advance(stored, auth)
        if failure is not None:
            raise failure
        if await self._store(stored, session) != session:
            raise StageFailed("M_UNKNOWN", "The session is in use by another request")

    # Inside

    async def _stored(self, session_id: str, attempt: Attempt) -> UiaSession | None:
        session = await self.session(session_id)
        if session is None or (session.operation, session.user_id, session.device_id) != (
            attempt.operation,
            attempt.user_id,
            attempt.device_id,
        ):
            return None
        return session

    def _new(self, session_id: str, attempt: Attempt, flows: Sequence[Flow]) -> UiaSession:
        now = self._now()
        return UiaSession(
            digest=digest_of(session_id),
            operation=attempt.operation,
            user_id=attempt.user_id,
            device_id=attempt.device_id,
            owner=attempt.user_id or attempt.address,
            created_ts=now,
            expires_ts=now + LIFETIME_MS,
            flows=tuple(flows),
        )

    async def _advance(self, session: UiaSession, auth: JsonObject) -> tuple[UiaSession, StageFailed | None]:
        """The session after an attempt on a stage (`auth` may name none, or one that is done already)."""
        type = auth.get("type")
        if type is None or type in tuple(session.completed):
            return session, None
        if not isinstance(type, str) or type not in next_stages(session):
            return session, StageFailed("M_FORBIDDEN", "This is not the next stage of any flow")
        try:
            proof = await self._stages[type].attempt(session.user_id, auth)
        except StageFailed as failure:
            return session, failure
        return msgspec.structs.replace(session, completed={**session.completed, type: proof}), None

    async def _store(self, stored: UiaSession | None, session: UiaSession) -> UiaSession:
        """The session as it is now: when another request was faster, what that one has made of it."""
        if stored is None:
            others = await self._sessions.find("by_owner", (session.owner,), limit=2 * MAX_SESSIONS)
            for other in others[: max(0, len(others) - MAX_SESSIONS + 1)]:
                await self._sessions.delete(other.digest)
            await keep_until_expiry(self._sessions, session, self._now())
        elif stored != session and not await self._sessions.replace_if(stored, session):
            return await self._sessions.get(session.digest) or stored
        return session

    def _challenge(self, session_id: str, session: UiaSession, failure: StageFailed | None) -> Challenge:
        offered = {stage for flow in session.flows for stage in flow}
        params = {stage: self._stages[stage].params() for stage in sorted(offered)}
        extra: dict[str, object] = {
            "flows": [{"stages": flow} for flow in session.flows],
            "params": {stage: known for stage, known in params.items() if known is not None},
            "session": session_id,
        }
        if session.completed:
            extra["completed"] = list(session.completed)
        return Challenge(failure, **extra)


def next_stages(session: UiaSession) -> set[str]:
    """The stages that may be attempted now."""
    done = tuple(session.completed)
    return {flow[len(done)] for flow in session.flows if len(flow) > len(done) and flow[: len(done)] == done}


def _encipher(session_id: str, parameters: JsonObject) -> bytes:
    plain = orjson.dumps(parameters)
    if len(plain) > MAX_PARAMETERS:
        raise too_large(f"A request that is to be confirmed may have {MAX_PARAMETERS} bytes at most")
    return bytes(_box(session_id).encrypt(plain))


def _decipher(session_id: str, enciphered: bytes) -> JsonObject:
    parameters: JsonObject = orjson.loads(_box(session_id).decrypt(enciphered))
    return parameters


def _box(session_id: str) -> SecretBox:
    return SecretBox(hashlib.blake2b(session_id.encode(), digest_size=32, person=b"weft-uia-body").digest())
