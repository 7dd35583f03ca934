"""Sending messages to devices (spec: client-server "Send-to-Device messaging")."""

import msgspec

from client_api.http import Auth, Call, put
from homeserver.e2ee.device_messages import Sender
from homeserver.e2ee.to_device import ToDevice
from homeserver.protocol.json_types import JsonObject
from rest.answers import Result
from rest.routes import Routes


class MessagesBody(msgspec.Struct):
    messages: dict[str, dict[str, JsonObject]]


class ToDeviceRoutes(Routes):
    def __init__(self, to_device: ToDevice) -> None:
        self._to_device = to_device

    # Quick: each message is whole by itself, and a client that repeats the request brings the others.
    @put("/sendToDevice/{event_type}/{txn_id}", auth=Auth.GUEST, quick=True)
    async def send(self, call: Call) -> Result:
        session = call.session
        sender = Sender(session.user_id, session.device_id, call.path("txn_id"))
        await self._to_device.send(sender, call.path("event_type"), call.json(MessagesBody).messages)
        return {}
