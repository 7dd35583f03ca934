"""Another server as the one that is sent things (server-server "Transactions")."""

import json
from typing import Any

from aiohttp import web

from homeserver.protocol.json_types import JsonObject
from tests.federation.servers import V1, OtherServer


def taken(transaction: JsonObject) -> web.Response:
    return web.json_response({"pdus": {}})


def away(transaction: JsonObject) -> web.Response:
    return web.json_response({}, status=503)


class Receiving:
    """A server that takes transactions, or answers what a test wants."""

    def __init__(self, other: OtherServer) -> None:
        self.transactions: list[JsonObject] = []
        self.answer = taken
        other.peer.site.below[f"{V1}/send/"] = self.take

    async def take(self, request: web.BaseRequest) -> web.StreamResponse:
        transaction = json.loads(await request.read())
        answer = self.answer(transaction)
        if answer.status == 200:
            self.transactions.append(transaction)
        return answer

    @property
    def pdus(self) -> list[JsonObject]:
        return [pdu for transaction in self.transactions for pdu in transaction["pdus"]]

    @property
    def edus(self) -> list[JsonObject]:
        return [edu for transaction in self.transactions for edu in transaction["edus"]]

    @property
    def texts(self) -> list[str]:
        return [pdu["content"]["body"] for pdu in self.pdus if pdu["type"] == "m.room.message"]

    def contents(self, edu_type: str) -> list[Any]:
        """What the EDUs of this type say."""
        return [edu["content"] for edu in self.edus if edu["edu_type"] == edu_type]
