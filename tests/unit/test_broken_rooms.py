"""Rooms that are broken are left out, and said to be so now and then."""

import pytest
from structlog.testing import capture_logs

from homeserver.errors import MatrixError
from homeserver.rooms import broken_rooms
from homeserver.rooms.broken_rooms import LeftOutIfBroken
from storage.errors import StoreDamaged, StoreUnavailable


def come_upon(room_id: str) -> int:
    """How often the log speaks of a broken room when one comes upon it."""
    with capture_logs() as logs, LeftOutIfBroken(room_id):
        raise StoreDamaged("not an event")
    return [line["room_id"] for line in logs].count(room_id)


def test_a_room_is_logged_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 5.0
    monkeypatch.setattr(broken_rooms, "monotonic", lambda: now)
    monkeypatch.setattr(broken_rooms, "_logged", {})
    assert [come_upon("!one:x"), come_upon("!two:x"), come_upon("!one:x")] == [1, 1, 0]
    now += broken_rooms.LOGGED_EVERY_S
    assert come_upon("!one:x") == 1


@pytest.mark.parametrize("error", [StoreUnavailable("busy"), MatrixError(404, "M_NOT_FOUND", "gone")])
def test_what_may_pass_goes_through(error: Exception) -> None:
    with pytest.raises(type(error)), LeftOutIfBroken("!one:x"):
        raise error
