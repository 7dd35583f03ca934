"""Reports of events, rooms and users, kept for administrators (spec: client-server "Reporting Content").

Rooms and users can be reported by anyone, known here or not, with the same answer: one may see them
in invites and directories, and nobody learns from a report what exists. Somebody who reports the same
thing again replaces what they said before.
"""

from hashlib import blake2b

from homeserver.clock import Clock
from homeserver.errors import MatrixError, invalid_param, not_found
from homeserver.rooms.history import History
from storage.collection import Collection
from storage.records.rooms import Report

MAX_REASON_BYTES = 4096
MAX_PER_REPORTER = 1000
"""Of these the newest are kept."""


class Reports:
    def __init__(self, reports: Collection[Report], history: History, now: Clock) -> None:
        self._reports = reports
        self._history = history
        self._now = now

    async def report_event(self, reporter: str, room_id: str, event_id: str, reason: str) -> None:
        """By members who may see the event. Raises 404 for everyone and everything else, 400."""
        try:
            room, *_ = await self._history.visible_event(room_id, reporter, event_id)
        except MatrixError:
            room = None
        if room is None or reporter not in room.joined:
            raise not_found("The event was not found or you are not joined to the room")
        await self._keep(reporter, room_id, event_id, reason)

    async def report_room(self, reporter: str, room_id: str, reason: str) -> None:
        """Raises 400."""
        await self._keep(reporter, room_id, room_id, reason)

    async def report_user(self, reporter: str, user_id: str, reason: str) -> None:
        """Raises 400."""
        await self._keep(reporter, "", user_id, reason)

    async def _keep(self, reporter: str, room_id: str, subject: str, reason: str) -> None:
        if len(reason.encode("utf-8", "surrogatepass")) > MAX_REASON_BYTES:
            raise invalid_param(f"reason: {MAX_REASON_BYTES} bytes at most")
        what = "\0".join((reporter, room_id, subject))
        await self._reports.put(
            Report(
                report_id=blake2b(what.encode(), digest_size=12).hexdigest(),
                ts=self._now(),
                reporter=reporter,
                room_id=room_id,
                subject=subject,
                reason=reason,
            )
        )
        newest = await self._reports.find(
            "by_reporter", (reporter,), newest_first=True, limit=MAX_PER_REPORTER + 1
        )
        for report in newest[MAX_PER_REPORTER:]:
            await self._reports.delete(report.report_id)
