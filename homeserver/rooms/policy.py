"""Policy servers: a room may name a server that sees each event before others do, and signs what may be sent.

That server's signature recommends an event. Without it nobody here sends one. What others send without it is
asked about once, and soft-failed if no signature comes of that. This is for good: whether the policy server
refuses or is away, the event is not recommended. The auth rules know nothing of this.

spec: server-server "Policy Servers"
"""

import asyncio
from collections import OrderedDict
from typing import NamedTuple, Protocol
from weakref import WeakValueDictionary

from homeserver.clock import Clock
from homeserver.errors import MatrixError, not_found, too_large
from homeserver.protocol.events import MAX_EVENT_BYTES, Event, load_event
from homeserver.protocol.json_types import JsonObject
from homeserver.protocol.signing import InvalidSignature, encode_event, verify_event_signature
from homeserver.rooms.room import Room, RoomHead

POLICY = ("m.room.policy", "")
KEY_ID = "ed25519:policy_server"
KEPT = 1_000
REFUSED_MS = 60_000
"""How long a refusal stands before it is asked again."""


class PolicyServer(NamedTuple):
    name: str
    key: str
    """The public key that the room says it signs with, in Base64."""


class PolicyServers(Protocol):
    """Asks them."""

    async def sign(self, server: str, pdu: JsonObject) -> JsonObject:
        """The signatures that a policy server gives an event. Raises MatrixError: what it says against it."""
        ...


class NoPolicyServers:
    """Of a server that has nothing to do with others."""

    async def sign(self, server: str, pdu: JsonObject) -> JsonObject:
        raise not_found("This server does not talk to others")


def policy_server(room: Room, head: RoomHead) -> PolicyServer | None:
    """The policy server that the room has at `head`; only a server with users in the room can be one."""
    event = head.state.get(POLICY)
    if event is None:
        return None
    via, keys = event.content.get("via"), event.content.get("public_keys")
    key = keys.get("ed25519") if isinstance(keys, dict) else None
    if not isinstance(via, str) or not isinstance(key, str) or not room.servers.get(via):
        return None
    return PolicyServer(via, key)


def is_recommended(server: PolicyServer | None, event: Event) -> bool:
    """Whether an event may be there as it is, as far as the room's policy server has a say."""
    if server is None or (event.is_state and event.state_tuple == POLICY):
        return True
    try:
        verify_event_signature(event.version, event.pdu, server.name, KEY_ID, server.key)
    except InvalidSignature:
        return False
    return True


class Policy:
    """Has events signed by policy servers."""

    def __init__(self, servers: PolicyServers, now: Clock) -> None:
        self._servers = servers
        self._now = now
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._refused: OrderedDict[str, tuple[int, MatrixError]] = OrderedDict()
        """Event → until when it is not asked about again, and why."""
        self._signed: OrderedDict[str, Event] = OrderedDict()

    def turn(self, room_id: str) -> asyncio.Lock:
        """Of those who send into a room with a policy server one waits for the other: each event it signs
        follows upon the one before."""
        return self._turns.setdefault(room_id, asyncio.Lock())

    async def signed(self, room: Room, head: RoomHead, event: Event) -> Event:
        """The event with what it takes to be recommended at `head`. Raises MatrixError if it is refused."""
        server = policy_server(room, head)
        if server is None or is_recommended(server, event):
            return event
        known = self._signed.get(event.event_id)
        if known is not None and is_recommended(server, known):
            return known
        refused = self._refused.get(event.event_id)
        if refused is not None and refused[0] > self._now():
            raise MatrixError(refused[1].status, refused[1].errcode, refused[1].error)
        try:
            signed = await self._ask(server, event)
        except MatrixError as error:
            self._refused[event.event_id] = self._now() + REFUSED_MS, error
            if len(self._refused) > KEPT:
                self._refused.popitem(last=False)
            raise
        self._signed[event.event_id] = signed
        if len(self._signed) > KEPT:
            self._signed.popitem(last=False)
        return signed

    async def _ask(self, server: PolicyServer, event: Event) -> Event:
        given = await self._servers.sign(server.name, event.pdu)
        theirs = given.get(server.name)
        signature = theirs.get(KEY_ID) if isinstance(theirs, dict) else None
        if not isinstance(signature, str):
            raise _refused("The policy server of the room does not sign the event")
        signatures = event.pdu["signatures"]
        own = {**signatures.get(server.name, {}), KEY_ID: signature}
        pdu = {**event.pdu, "signatures": {**signatures, server.name: own}}
        signed = load_event(event.version, pdu, event.event_id)
        if not is_recommended(server, signed):
            raise _refused("The policy server of the room signs with another key than the room knows")
        if len(encode_event(event.version, pdu)) > MAX_EVENT_BYTES:
            raise too_large("The event is too large with the signature of the room's policy server")
        return signed


def _refused(why: str) -> MatrixError:
    return MatrixError(400, "M_FORBIDDEN", why)
