"""Events that are sent later (MSC4140), as apps plan their leaving of a call."""

import asyncio
from typing import Any
from urllib.parse import quote

import msgspec
import pytest

from homeserver.config.options import Rate, RateLimits
from homeserver.config.units import Duration
from storage.records.delayed_events import DELAYED_EVENTS
from tests.client_api.conftest import Client, Reply, Server
from tests.client_api.delayed import DELAYED, EVENTS, messages, outcome
from tests.waiting import until

CALL_MEMBER = "org.matrix.msc3401.call.member"
LONG = 60_000
SHORT = 300
SECOND = 1_000
OPEN = {"preset": "public_chat", "power_level_content_override": {"events": {CALL_MEMBER: 0}}}


async def delay(client: Client, room_id: str, path: str, content: Any, ms: int, **kwargs: Any) -> Reply:
    query = {"org.matrix.msc4140.delay": str(ms)}
    return await client.call("PUT", f"/rooms/{quote(room_id)}/{path}", content, query=query, **kwargs)


async def message_later(client: Client, room_id: str, body: str, ms: int, txn: str = "later") -> str:
    content = {"msgtype": "m.text", "body": body}
    reply = await delay(client, room_id, f"send/m.room.message/{txn}", content, ms)
    assert set(reply.body) == {"delay_id"}
    delay_id: str = reply.body["delay_id"]
    return delay_id


async def leave_later(client: Client, room_id: str, ms: int) -> str:
    """Plan to leave a call, as apps do."""
    reply = await delay(client, room_id, f"state/{CALL_MEMBER}/{quote(key_of(client))}", {}, ms)
    delay_id: str = reply.body["delay_id"]
    return delay_id


def key_of(client: Client) -> str:
    return f"_{client.user_id}_{client.device_id}_m.call"


async def act(client: Client, delay_id: str, action: str, expect: int = 200) -> Reply:
    return await client.call("POST", f"{EVENTS}/{delay_id}/{action}", {}, expect=expect)


async def scheduled(client: Client) -> list[str]:
    answer = await client.get(EVENTS)
    return [event["delay_id"] for event in answer["delayed_events"]]


async def call_state(client: Client, room_id: str, of: Client) -> Any:
    path = f"/rooms/{quote(room_id)}/state/{CALL_MEMBER}/{quote(key_of(of))}"
    return (await client.call("GET", path, expect=None)).body


@pytest.fixture
async def room(alice: Client, bob: Client) -> str:
    room_id = await alice.create_room(**OPEN)
    await bob.join(room_id)
    return room_id


async def test_server_says_that_events_can_be_delayed(alice: Client) -> None:
    assert (await alice.get("/_matrix/client/versions"))["unstable_features"]["org.matrix.msc4140"] is True
    capabilities = (await alice.get("/capabilities"))["capabilities"]
    assert capabilities["org.matrix.msc4140.delayed_events"] == {
        "max_delay_ms": 24 * 3600 * 1000,
        "max_scheduled": 100,
    }


async def test_message_is_sent_when_its_time_has_come_and_not_before(alice: Client, room: str) -> None:
    delay_id = await message_later(alice, room, "tea is ready", SHORT)
    assert await scheduled(alice) == [delay_id]
    assert await messages(alice, room) == []
    event = await outcome(alice, delay_id)
    assert event["finalised_ts"] >= event["scheduled_at"] + event["delay_ms"]
    assert await messages(alice, room) == ["tea is ready"]
    assert await scheduled(alice) == []


async def test_state_is_set_when_its_time_has_come(alice: Client, bob: Client, room: str) -> None:
    await bob.set_state(room, CALL_MEMBER, {"application": "m.call"}, key_of(bob))
    delay_id = await leave_later(bob, room, SHORT)
    assert (await call_state(alice, room, bob))["application"] == "m.call"
    event = await outcome(bob, delay_id)
    assert await call_state(alice, room, bob) == {}
    assert (await alice.get(f"/rooms/{room}/event/{quote(event['event_id'])}"))["sender"] == bob.user_id


async def test_events_come_in_the_order_of_their_times(alice: Client, room: str) -> None:
    ids = [await message_later(alice, room, str(ms), ms, f"t{ms}") for ms in (900, 300, 600)]
    events = [await outcome(alice, delay_id) for delay_id in ids]
    due = {str(event["delay_ms"]): event["scheduled_at"] + event["delay_ms"] for event in events}
    assert await messages(alice, room) == sorted(due, key=due.__getitem__)


async def test_event_that_waits_is_shown_to_its_sender_alone(alice: Client, bob: Client, room: str) -> None:
    delay_id = await leave_later(alice, room, LONG)
    [event] = (await alice.get(EVENTS))["delayed_events"]
    assert event == await alice.get(f"{EVENTS}/{delay_id}")
    began = event.pop("scheduled_at")
    assert event == {
        "delay_id": delay_id,
        "room_id": room,
        "type": CALL_MEMBER,
        "state_key": key_of(alice),
        "content": {},
        "delay_ms": LONG,
        # As Synapse and apps call them.
        "delay": LONG,
        "running_since": began,
    }
    assert await scheduled(bob) == []
    assert (await bob.call("GET", f"{EVENTS}/{delay_id}", expect=404)).errcode == "M_NOT_FOUND"
    await bob.stranger().call("GET", EVENTS, expect=401)
    await bob.stranger().call("GET", f"{EVENTS}/{delay_id}", expect=401)


async def test_only_its_sender_sees_by_which_id_an_event_was_delayed(
    alice: Client, bob: Client, room: str
) -> None:
    delay_id = await message_later(alice, room, "hello", LONG)
    await act(alice, delay_id, "send")

    async def unsigned(client: Client) -> Any:
        [event] = (await client.sync())["rooms"]["join"][room]["timeline"]["events"][-1:]
        page = await client.get(f"/rooms/{room}/messages", query={"dir": "b", "limit": 1})
        [again] = page["chunk"]
        assert event["content"]["body"] == again["content"]["body"] == "hello"
        told = event["unsigned"].get("org.matrix.msc4140.delay_id")
        assert again["unsigned"].get("org.matrix.msc4140.delay_id") == told
        assert "transaction_id" not in event["unsigned"]
        return told

    assert await unsigned(alice) == delay_id
    assert await unsigned(bob) is None


# Managing them


async def test_cancelled_event_is_never_sent(alice: Client, room: str) -> None:
    delay_id = await message_later(alice, room, "never", SECOND)
    await act(alice, delay_id, "cancel")
    await act(alice, delay_id, "cancel")
    assert await scheduled(alice) == []
    await asyncio.sleep(1.5)
    assert await messages(alice, room) == []
    event = await alice.get(f"{EVENTS}/{delay_id}")
    assert "finalised_ts" in event
    assert event.keys().isdisjoint(("event_id", "error"))
    for action in ("send", "restart"):
        assert (await act(alice, delay_id, action, 404)).errcode == "M_NOT_FOUND"


async def test_restarted_event_waits_anew(alice: Client, room: str) -> None:
    delay_id = await message_later(alice, room, "at last", 2 * SECOND)
    before = (await alice.get(f"{EVENTS}/{delay_id}"))["scheduled_at"]
    for _ in range(4):
        await asyncio.sleep(0.6)
        await act(alice, delay_id, "restart")
    assert await messages(alice, room) == []
    assert (await alice.get(f"{EVENTS}/{delay_id}"))["scheduled_at"] > before + 2 * SECOND
    await outcome(alice, delay_id)
    assert await messages(alice, room) == ["at last"]


async def test_event_can_be_sent_at_once(alice: Client, room: str) -> None:
    delay_id = await message_later(alice, room, "now", LONG)
    await act(alice, delay_id, "send")
    assert await messages(alice, room) == ["now"]
    # Whoever has not heard the answer asks again.
    await act(alice, delay_id, "send")
    assert await messages(alice, room) == ["now"]
    event = await alice.get(f"{EVENTS}/{delay_id}")
    assert event["finalised_ts"] < event["scheduled_at"] + event["delay_ms"]


async def test_event_that_was_sent_is_not_to_be_found_for_the_rest(alice: Client, room: str) -> None:
    """By which apps whose device was asleep know that they have to schedule another."""
    delay_id = await message_later(alice, room, "gone", LONG)
    await act(alice, delay_id, "send")
    for action in ("restart", "cancel"):
        assert (await act(alice, delay_id, action, 404)).errcode == "M_NOT_FOUND"


async def test_who_knows_the_id_manages_the_event_without_logging_in(alice: Client, room: str) -> None:
    """As the service does that lets people into a call, and hears of their leaving first."""
    stranger = alice.stranger()
    delay_id = await message_later(alice, room, "left", LONG)
    await act(stranger, delay_id, "restart")
    await act(stranger, delay_id, "send")
    assert await messages(alice, room) == ["left"]
    assert (await act(stranger, "abc", "restart", 404)).errcode == "M_NOT_FOUND"


async def test_another_user_does_not_manage_it(alice: Client, bob: Client, room: str) -> None:
    delay_id = await message_later(alice, room, "mine", LONG)
    for action in ("send", "restart", "cancel"):
        assert (await act(bob, delay_id, action, 404)).errcode == "M_NOT_FOUND"
    assert await scheduled(alice) == [delay_id]


async def test_action_in_the_body_is_as_good(alice: Client, room: str) -> None:
    """As Element X has it."""
    delay_id = await message_later(alice, room, "hello", LONG)
    path = f"{EVENTS}/{delay_id}"
    assert await alice.post(path, {"action": "restart"}) == {}
    assert await alice.post(path, {"action": "send"}) == {}
    assert await messages(alice, room) == ["hello"]
    assert (await alice.call("POST", path, {}, expect=400)).errcode == "M_MISSING_PARAM"
    assert (await alice.call("POST", path, {"action": "x"}, expect=400)).errcode == "M_INVALID_PARAM"
    assert (await act(alice, delay_id, "x", 404)).errcode == "M_UNRECOGNIZED"


# Scheduling


async def test_same_transaction_schedules_one_event(alice: Client, room: str) -> None:
    ids = await asyncio.gather(*(message_later(alice, room, "once", LONG, "same") for _ in range(5)))
    assert len(set(ids)) == 1
    assert await scheduled(alice) == [ids[0]]
    assert await message_later(alice, room, "twice", LONG, "other") != ids[0]
    await act(alice, ids[0], "send")
    assert await message_later(alice, room, "once", LONG, "same") == ids[0]
    assert await messages(alice, room) == ["once"]


@pytest.mark.parametrize("name", ["delay_ms", "delay"])
async def test_endpoint_of_its_own_schedules_messages_and_state(alice: Client, room: str, name: str) -> None:
    path = f"{DELAYED}/rooms/{quote(room)}/delayed_event"
    content = {"msgtype": "m.text", "body": "hello"}
    sent = await alice.put(f"{path}/m.room.message/1", {name: LONG, "content": content})
    assert await alice.put(f"{path}/m.room.message/1", {name: LONG, "content": content}) == sent
    topic = {name: LONG, "content": {"topic": "later"}, "state_key": ""}
    state = await alice.put(f"{path}/m.room.topic/1", topic)
    for delay_id in (sent["delay_id"], state["delay_id"]):
        await act(alice, delay_id, "send")
    assert await messages(alice, room) == ["hello"]
    assert (await alice.get(f"/rooms/{room}/state/m.room.topic"))["topic"] == "later"
    await alice.call("PUT", f"{path}/m.room.message/2", {"content": content}, expect=400)
    await alice.call("PUT", f"{path}/m.room.message/2", {name: 0, "content": content}, expect=400)


async def test_redaction_and_membership_can_be_delayed(alice: Client, bob: Client, room: str) -> None:
    event_id = await alice.send(room, "burn after reading")
    redaction = await delay(alice, room, "send/m.room.redaction/1", {"redacts": event_id}, LONG)
    ban = await delay(alice, room, f"state/m.room.member/{quote(bob.user_id)}", {"membership": "ban"}, LONG)
    for reply in (redaction, ban):
        await act(alice, reply.body["delay_id"], "send")
    event = await alice.get(f"/rooms/{room}/event/{quote(event_id)}")
    assert event["content"] == {}
    assert "org.matrix.msc4140.delay_id" not in event["unsigned"]
    member = await alice.get(f"/rooms/{room}/state/m.room.member/{quote(bob.user_id)}")
    assert member["membership"] == "ban"


@pytest.mark.parametrize(
    ("ms", "status", "errcode"),
    [
        ("0", 400, "M_INVALID_PARAM"),
        ("-1", 400, "M_INVALID_PARAM"),
        ("soon", 400, "M_INVALID_PARAM"),
        (str(24 * 3600 * 1000 + 1), 403, "M_FORBIDDEN"),
    ],
)
async def test_delay_has_bounds(alice: Client, room: str, ms: Any, status: int, errcode: str) -> None:
    for path in ("send/org.example/1", "state/org.example/key"):
        assert (await delay(alice, room, path, {}, ms, expect=status)).errcode == errcode
    assert await scheduled(alice) == []


async def test_what_could_never_be_sent_is_refused_at_once(alice: Client, bob: Client) -> None:
    room_id = await alice.create_room()
    large = {"msgtype": "m.text", "body": "x" * 70_000}
    path = "send/m.room.message/1"
    assert (await delay(alice, room_id, path, large, LONG, expect=413)).errcode == "M_TOO_LARGE"
    assert (await delay(alice, room_id, path, {}, LONG, expect=400)).errcode == "M_BAD_JSON"
    assert (await delay(alice, room_id, path, {"a": 0.5}, LONG, expect=400)).errcode == "M_BAD_JSON"
    create = await delay(alice, room_id, "state/m.room.create/", {}, LONG, expect=400)
    assert create.errcode == "M_INVALID_PARAM"
    assert (await delay(alice, "!none:x", path, {}, LONG, expect=403)).errcode == "M_FORBIDDEN"
    await delay(bob.stranger(), room_id, path, {}, LONG, expect=401)


async def test_so_many_events_of_one_user_wait_and_no_more(
    server: Server, alice: Client, bob: Client, room: str
) -> None:
    limits = msgspec.structs.replace(server.config.limits, max_delayed_events=2)
    await server.restart(msgspec.structs.replace(server.config, limits=limits))
    first = await message_later(alice, room, "1", LONG, "1")
    await message_later(alice, room, "2", 2 * LONG, "2")
    content = {"msgtype": "m.text", "body": "3"}
    reply = await delay(alice, room, "send/m.room.message/3", content, LONG, expect=429)
    assert reply.errcode == "M_LIMIT_EXCEEDED"
    assert LONG / 2000 < int(reply.headers["Retry-After"]) <= LONG / 1000
    assert await message_later(alice, room, "1", LONG, "1") == first
    await message_later(bob, room, "3", LONG)
    await act(alice, first, "cancel")
    await message_later(alice, room, "3", LONG, "3")


async def test_option_says_how_long_events_may_be_delayed(server: Server, alice: Client, room: str) -> None:
    limits = msgspec.structs.replace(server.config.limits, max_event_delay=Duration.parse("5s"))
    await server.restart(msgspec.structs.replace(server.config, limits=limits))
    reply = await delay(alice, room, "send/org.example/1", {}, 5_001, expect=403)
    assert reply.body["error"] == "Events are delayed by 5000 ms at most"
    await delay(alice, room, "send/org.example/1", {}, 5_000)
    capabilities = (await alice.get("/capabilities"))["capabilities"]
    assert capabilities["org.matrix.msc4140.delayed_events"]["max_delay_ms"] == 5_000


# What happens meanwhile


async def test_state_that_somebody_else_set_meanwhile_stays(alice: Client, bob: Client, room: str) -> None:
    bobs = f"state/{CALL_MEMBER}/{quote(key_of(bob))}"
    delay_id = (await delay(bob, room, bobs, {"from": "bob"}, 2 * SECOND)).body["delay_id"]
    other = (await delay(bob, room, bobs, {"from": "bob"}, LONG)).body["delay_id"]
    await alice.set_state(room, CALL_MEMBER, {"from": "alice"}, key_of(bob))
    assert await scheduled(bob) == []
    assert (await act(bob, other, "restart", 404)).errcode == "M_NOT_FOUND"
    event = await outcome(bob, delay_id)
    assert event.keys().isdisjoint(("event_id", "error"))
    assert (await call_state(alice, room, bob))["from"] == "alice"


async def test_own_change_of_the_state_cancels_nothing(alice: Client, bob: Client, room: str) -> None:
    await alice.set_state(room, CALL_MEMBER, {"from": "alice"}, key_of(bob))
    delay_id = await leave_later(bob, room, LONG)
    await bob.set_state(room, CALL_MEMBER, {"application": "m.call"}, key_of(bob))
    await act(bob, delay_id, "restart")
    await act(bob, delay_id, "send")
    assert await call_state(alice, room, bob) == {}


async def test_what_may_be_sent_is_decided_when_it_is(alice: Client, bob: Client, room: str) -> None:
    delay_id = await message_later(bob, room, "still here", 2 * SECOND)
    allowed = (await delay(bob, room, "state/m.room.topic/", {"topic": "bob's"}, LONG)).body["delay_id"]
    await bob.leave(room)
    assert (await act(bob, delay_id, "send", 403)).errcode == "M_FORBIDDEN"
    assert delay_id in await scheduled(bob)
    event = await outcome(bob, delay_id)
    assert event["error"]["errcode"] == "M_FORBIDDEN"
    assert "event_id" not in event
    await act(bob, delay_id, "cancel")
    await bob.join(room)
    levels = await alice.get(f"/rooms/{room}/state/m.room.power_levels")
    await alice.set_state(room, "m.room.power_levels", {**levels, "users": {bob.user_id: 100}})
    await act(bob, allowed, "send")
    assert (await alice.get(f"/rooms/{room}/state/m.room.topic"))["topic"] == "bob's"


async def test_event_is_sent_although_its_device_has_logged_out(
    alice: Client, bob: Client, room: str
) -> None:
    """Apps leave the call so that were closed by force."""
    await bob.set_state(room, CALL_MEMBER, {"application": "m.call"}, key_of(bob))
    await leave_later(bob, room, SHORT)
    await bob.post("/logout")

    async def left() -> bool:
        return bool(await call_state(alice, room, bob) == {})

    await until(left, "bob left the call")


async def test_nothing_is_sent_for_those_who_may_not_any_more(
    server: Server, alice: Client, bob: Client, carol: Client, room: str
) -> None:
    await carol.join(room)
    locked = await message_later(bob, room, "locked", LONG)
    suspended = await message_later(carol, room, "suspended", LONG)
    await server.app.people.accounts.update(bob.user_id, locked=True)
    await server.app.people.accounts.update(carol.user_id, suspended=True)
    stranger = alice.stranger()
    assert (await act(stranger, locked, "send", 401)).errcode == "M_USER_LOCKED"
    assert (await act(stranger, suspended, "send", 403)).errcode == "M_USER_SUSPENDED"
    content = {"msgtype": "m.text", "body": "x"}
    await delay(carol, room, "send/m.room.message/x", content, LONG, expect=403)
    assert await messages(alice, room) == []


async def test_events_of_an_account_that_ends_are_gone(server: Server, bob: Client, room: str) -> None:
    waiting = await message_later(bob, room, "later", LONG)
    ended = await message_later(bob, room, "never", LONG, "2")
    await act(bob, ended, "cancel")
    auth = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": bob.user_id},
        "password": "correct horse",
    }
    await bob.post("/account/deactivate", {"auth": auth})

    records = server.app.store.collection(DELAYED_EVENTS)

    async def gone() -> bool:
        return await records.get_many([(waiting,), (ended,)]) == []

    await until(gone, "the events are gone")


async def test_events_wait_and_are_sent_across_restarts(server: Server, alice: Client, room: str) -> None:
    missed = await message_later(alice, room, "while it was down", 100, "1")
    later = await message_later(alice, room, "later", LONG, "2")
    await server.stop()
    await asyncio.sleep(0.2)
    await server.start()
    await outcome(alice, missed)
    assert await messages(alice, room) == ["while it was down"]
    assert await scheduled(alice) == [later]


async def test_event_sent_just_before_a_crash_is_not_sent_again(
    server: Server, alice: Client, bob: Client, room: str
) -> None:
    """Nor does it undo what was done since."""
    said = await message_later(bob, room, "once", LONG)
    left = await leave_later(bob, room, LONG)
    records = server.app.store.collection(DELAYED_EVENTS)
    for delay_id in (said, left):
        before = await records.get(delay_id)
        assert before is not None
        await act(bob, delay_id, "send")
        # As a crash leaves it that comes before the outcome is noted.
        await records.put(msgspec.structs.replace(before, sending=True, due=before.since))
    await bob.set_state(room, CALL_MEMBER, {"application": "m.call"}, key_of(bob))
    await server.restart()
    for delay_id in (said, left):
        assert "event_id" in await outcome(bob, delay_id)
    assert await messages(alice, room) == ["once"]
    assert (await call_state(alice, room, bob))["application"] == "m.call"


async def test_membership_changed_just_before_a_crash_is_not_changed_again(
    server: Server, alice: Client, bob: Client, room: str
) -> None:
    """Who left has come back meanwhile; who was kicked is not there to be kicked."""
    carol = await server.client().register("carol")
    await carol.join(room)
    members = [f"state/m.room.member/{quote(client.user_id)}" for client in (bob, carol)]
    leave = {"membership": "leave"}
    left = (await delay(bob, room, members[0], leave, LONG)).body["delay_id"]
    kicked = (await delay(alice, room, members[1], leave, LONG)).body["delay_id"]
    records = server.app.store.collection(DELAYED_EVENTS)
    for client, delay_id in ((bob, left), (alice, kicked)):
        before = await records.get(delay_id)
        assert before is not None
        await act(client, delay_id, "send")
        # As a crash leaves it that comes before the outcome is noted.
        await records.put(msgspec.structs.replace(before, sending=True, due=before.since))
    await bob.join(room)
    await server.restart()
    for client, delay_id in ((bob, left), (alice, kicked)):
        assert "event_id" in await outcome(client, delay_id)
    assert (await bob.get("/joined_rooms"))["joined_rooms"] == [room]


async def test_sending_many_at_once_is_limited(server: Server, alice: Client, room: str) -> None:
    plenty = {name: Rate(1e6, 10**6) for name in RateLimits.__struct_fields__ if name != "enabled"}
    ids = [await message_later(alice, room, str(n), 2 * SECOND + n, str(n)) for n in range(4)]
    options = RateLimits(enabled=True, **{**plenty, "message": Rate(0.001, 2)})
    await server.restart(msgspec.structs.replace(server.config, rate_limits=options))
    events = [await outcome(alice, delay_id) for delay_id in ids]
    assert ["error" in event for event in events] == [False, False, True, True]
    assert events[-1]["error"]["errcode"] == "M_LIMIT_EXCEEDED"
    assert await messages(alice, room) == ["0", "1"]


async def test_guest_in_a_call_leaves_it_later(server: Server, alice: Client) -> None:
    room_id = await alice.create_room(**OPEN)
    await alice.set_state(room_id, "m.room.guest_access", {"guest_access": "can_join"})
    guest = server.client()
    body = await guest.post("/register", {}, query={"kind": "guest"})
    guest.token, guest.user_id, guest.device_id = body["access_token"], body["user_id"], body["device_id"]
    await guest.join(room_id)
    await guest.set_state(room_id, CALL_MEMBER, {"application": "m.call"}, key_of(guest))
    delay_id = await leave_later(guest, room_id, LONG)
    assert await scheduled(guest) == [delay_id]
    await act(guest, delay_id, "send")
    assert await call_state(alice, room_id, guest) == {}
    own = f"state/m.room.member/{quote(guest.user_id)}"
    await delay(guest, room_id, own, {"membership": "join"}, LONG, expect=403)


async def test_what_became_of_events_is_kept_for_a_while(server: Server, alice: Client, room: str) -> None:
    old = await message_later(alice, room, "old", LONG, "old")
    await act(alice, old, "cancel")
    server.clock.ahead += 8 * 24 * 3600 * 1000
    new = await message_later(alice, room, "new", LONG, "new")
    await act(alice, new, "cancel")
    assert "finalised_ts" in await alice.get(f"{EVENTS}/{new}")
    await alice.call("GET", f"{EVENTS}/{old}", expect=404)
