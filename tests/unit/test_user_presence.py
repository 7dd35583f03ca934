"""What a user's devices add up to, over time."""

import orjson

from homeserver.presence.user_presence import (
    ACTIVE_FOR_MS,
    HERE_FOR_MS,
    IDLE_AFTER_MS,
    OFFLINE,
    ONLINE,
    UNAVAILABLE,
    DevicePresence,
    UserPresence,
)

T = 1_000_000_000


def syncing(user: UserPresence, device_id: str, state: str) -> DevicePresence:
    """A device of the user with a sync under way."""
    device = user.device(device_id)
    device.state = state
    device.in_flight += 1
    return device


def test_a_user_without_devices_is_offline() -> None:
    user = UserPresence("@a:x")
    assert user.state(T) == OFFLINE
    assert user.status(T) == {"presence": "offline"}


def test_the_most_present_device_speaks_for_the_user() -> None:
    user = UserPresence("@a:x")
    syncing(user, "phone", UNAVAILABLE)
    assert user.state(T) == UNAVAILABLE
    syncing(user, "desk", ONLINE)
    user.act(T)
    assert user.state(T) == ONLINE


def test_a_poll_under_way_keeps_its_device_here_however_long() -> None:
    user = UserPresence("@a:x")
    device = syncing(user, "phone", ONLINE)
    user.act(T)
    assert user.state(T + IDLE_AFTER_MS - 1) == ONLINE
    user.drop_absent(T + 10 * IDLE_AFTER_MS)
    assert user.state(T + 10 * IDLE_AFTER_MS) == UNAVAILABLE
    device.in_flight -= 1
    user.drop_absent(T + 10 * IDLE_AFTER_MS)
    assert user.state(T + 10 * IDLE_AFTER_MS) == OFFLINE


def test_a_device_is_here_for_a_while_after_its_last_sync() -> None:
    user = UserPresence("@a:x")
    device = user.device("phone")
    device.state, device.here_until = ONLINE, T + HERE_FOR_MS
    user.act(T)
    assert user.state(T + HERE_FOR_MS - 1) == ONLINE
    assert user.state(T + HERE_FOR_MS) == OFFLINE


def test_activity_makes_an_idle_user_online_but_not_one_who_hides() -> None:
    user = UserPresence("@a:x")
    syncing(user, "phone", UNAVAILABLE)
    user.act(T)
    assert user.state(T) == ONLINE
    hidden = UserPresence("@b:x")
    syncing(hidden, "phone", OFFLINE)
    hidden.act(T)
    assert hidden.state(T) == OFFLINE


def test_active_ends_before_idle_begins() -> None:
    user = UserPresence("@a:x")
    syncing(user, "phone", ONLINE)
    user.act(T)
    assert user.shown(T + ACTIVE_FOR_MS - 1).active
    assert not user.shown(T + ACTIVE_FOR_MS).active
    assert user.state(T + ACTIVE_FOR_MS) == ONLINE


def test_the_event_tells_the_time_since_the_last_activity_not_since_it_was_told() -> None:
    user = UserPresence("@a:x")
    syncing(user, "phone", ONLINE)
    user.act(T)
    user.status_msg = 'a "quoted" message'
    user.profile = {"displayname": "A", "avatar_url": "mxc://x/y"}
    user.tell(user.shown(T), 7)
    assert not user.act(T + 5_000)
    assert orjson.loads(user.event(T + 6_000)) == {
        "type": "m.presence",
        "sender": "@a:x",
        "content": {
            "presence": "online",
            "currently_active": True,
            "last_active_ago": 1_000,
            "status_msg": 'a "quoted" message',
            "displayname": "A",
            "avatar_url": "mxc://x/y",
        },
    }


def test_the_event_of_someone_who_never_did_anything_is_whole() -> None:
    user = UserPresence("@a:x")
    user.tell(user.shown(T), 1)
    assert orjson.loads(user.event(T))["content"] == {"presence": "offline"}
