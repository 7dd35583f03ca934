"""Reporting events, rooms and users (spec: client-server "Reporting Content")."""

import msgspec

from client_api.http import Call, post
from homeserver.protocol.identifiers import check_event_id, check_room_id, check_user_id
from homeserver.reports import Reports
from rest.answers import Result
from rest.routes import Routes


class EventReport(msgspec.Struct):
    reason: str = ""


class ReportBody(msgspec.Struct):
    """The reason must be there, but may be blank."""

    reason: str


class ReportRoutes(Routes):
    def __init__(self, reports: Reports) -> None:
        self._reports = reports

    @post("/rooms/{room_id}/report/{event_id}", limit="report", quick=True)
    async def report_event(self, call: Call) -> Result:
        room_id, event_id = check_room_id(call.path("room_id")), check_event_id(call.path("event_id"))
        await self._reports.report_event(call.user_id, room_id, event_id, call.json(EventReport).reason)
        return {}

    @post("/rooms/{room_id}/report", limit="report", quick=True)
    async def report_room(self, call: Call) -> Result:
        room_id = check_room_id(call.path("room_id"))
        await self._reports.report_room(call.user_id, room_id, call.json(ReportBody).reason)
        return {}

    @post("/users/{user_id}/report", limit="report", quick=True)
    async def report_user(self, call: Call) -> Result:
        user_id = check_user_id(call.path("user_id"))
        await self._reports.report_user(call.user_id, user_id, call.json(ReportBody).reason)
        return {}
