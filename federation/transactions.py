"""What other servers send: events of rooms, and what is not kept (spec: server-server "Transactions")."""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec

from federation.edus import TO_DEVICE, Edus
from federation.http import Call, put
from federation.incoming import Incoming
from homeserver.errors import MatrixError, invalid_param
from homeserver.protocol.json_types import JsonObject
from homeserver.single_flight import SingleFlight
from rest.answers import Result
from rest.routes import Routes

MAX_PDUS = 50
MAX_EDUS = 100
MAX_BYTES = 10 * 1024 * 1024
ANSWERS_KEPT = 1_000
AT_ONCE = 8
"""Transactions of one server that are worked on; it should send one after the other."""


class Transaction(msgspec.Struct):
    origin: str
    origin_server_ts: int
    pdus: Annotated[list[JsonObject], msgspec.Meta(max_length=MAX_PDUS)]
    edus: Annotated[list[JsonObject], msgspec.Meta(max_length=MAX_EDUS)] = []


class TransactionRoutes(Routes):
    def __init__(self, incoming: Incoming, edus: Edus) -> None:
        self._incoming = incoming
        self._edus = edus
        self._flights: SingleFlight[tuple[str, str], JsonObject] = SingleFlight()
        self._answers: OrderedDict[tuple[str, str], JsonObject] = OrderedDict()
        self._working: dict[str, int] = {}

    @put("/_matrix/federation/v1/send/{txn_id}", largest=MAX_BYTES)
    async def send(self, call: Call) -> Result:
        transaction = call.json(Transaction)
        if transaction.origin != call.origin:
            raise invalid_param("origin: another server has signed the request")
        name = call.origin, call.path("txn_id")
        answer = self._answers.get(name)
        if answer is None:
            answer = await self._flights.run(name, lambda: self._work(name, transaction))
        return answer

    async def _work(self, name: tuple[str, str], transaction: Transaction) -> JsonObject:
        origin, _ = name
        if self._working.get(origin, 0) >= AT_ONCE:
            raise MatrixError(429, "M_LIMIT_EXCEEDED", "Send one transaction after the other")
        self._working[origin] = self._working.get(origin, 0) + 1
        self._edus.alive(origin)
        try:
            edus = transaction.edus
            # Among them are the keys of messages, without which nobody should be shown these.
            for edu in [each for each in edus if each.get("edu_type") == TO_DEVICE]:
                await self._edus.receive(origin, edu)
            answer = {"pdus": await self._take(origin, transaction.pdus)}
            for edu in [each for each in edus if each.get("edu_type") != TO_DEVICE]:
                await self._edus.receive(origin, edu)
        finally:
            self._working[origin] -= 1
            if not self._working[origin]:
                del self._working[origin]
        self._answers[name] = answer
        if len(self._answers) > ANSWERS_KEPT:
            self._answers.popitem(last=False)
        return answer

    async def _take(self, origin: str, pdus: Sequence[JsonObject]) -> JsonObject:
        """The rooms of some events side by side."""
        by_room: dict[str, list[JsonObject]] = {}
        for pdu in pdus:
            room_id: Any = pdu.get("room_id")
            if isinstance(room_id, str):
                by_room.setdefault(room_id, []).append(pdu)
        taken = await asyncio.gather(
            *(self._incoming.take(origin, room_id, of_room) for room_id, of_room in by_room.items())
        )
        return {event_id: _result(error) for results in taken for event_id, error in results.items()}


def _result(error: str | None) -> JsonObject:
    return {} if error is None else {"error": error}
