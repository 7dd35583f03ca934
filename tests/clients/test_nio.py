"""People using matrix-nio: two or more of them, with several devices each, in encrypted and open rooms."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from io import BytesIO

from nio import (  # type: ignore[import-untyped]
    MegolmEvent,
    MessageDirection,
    ReactionEvent,
    RedactedEvent,
    RedactionEvent,
    RoomEncryptedImage,
    RoomMemberEvent,
    RoomPreset,
    RoomVisibility,
)
from nio.crypto.attachments import decrypt_attachment  # type: ignore[import-untyped]
from nio.responses import (  # type: ignore[import-untyped]
    DeleteDevicesAuthResponse,
    DeleteDevicesResponse,
    LogoutResponse,
    MemoryDownloadResponse,
    PresenceSetResponse,
    ProfileSetAvatarResponse,
    ProfileSetDisplayNameResponse,
    PublicRoomsResponse,
    RoomContextResponse,
    RoomForgetResponse,
    RoomGetEventResponse,
    RoomInviteResponse,
    RoomKickResponse,
    RoomKnockResponse,
    RoomLeaveResponse,
    RoomMessagesResponse,
    RoomPutStateResponse,
    RoomReadMarkersResponse,
    RoomRedactResponse,
    RoomResolveAliasResponse,
    RoomSendResponse,
    RoomTypingResponse,
    RoomUpgradeResponse,
    SpaceGetHierarchyResponse,
    ThumbnailResponse,
    ToDeviceResponse,
    UpdateDeviceResponse,
    UpdateReceiptMarkerResponse,
    UploadResponse,
    WhoamiResponse,
)
from PIL import Image

from .conftest import Register
from .nio_device import PASSWORD, Device, answered, refused


def picture(colour: str) -> bytes:
    """A PNG of 640 by 480 pixels in one colour."""
    png = BytesIO()
    Image.new("RGB", (640, 480), colour).save(png, "PNG")
    return png.getvalue()


async def upload(device: Device, body: bytes, encrypt: bool) -> tuple[str, dict[str, object]]:
    """Uploads a picture; gives its mxc URI and, if encrypted, the keys to put beside it."""
    response, keys = await device.client.upload(
        BytesIO(body), "image/png", "picture.png", encrypt=encrypt, filesize=len(body)
    )
    return str(answered(response, UploadResponse).content_uri), keys or {}


async def download(device: Device, mxc: str) -> bytes:
    """The bytes behind an mxc URI, as the server hands them to this device."""
    return bytes(answered(await device.client.download(mxc), MemoryDownloadResponse).body)


async def each_until(devices: Iterable[Device], what: str, probe: Callable[[Device], object]) -> None:
    """Waits until `probe` is true of every one of the devices."""
    for device in devices:
        await device.until(what, partial(probe, device))


async def encrypted_room(host: Device, *guests: Device) -> str:
    """An encrypted room that the guests have joined; everybody has everybody's device keys."""
    room_id = await host.create_encrypted_room(name="Den", invite=[guest.user_id for guest in guests])
    for guest in guests:
        await guest.accept_invite(room_id)
    await everybody_present(room_id, host, *guests)
    return room_id


async def everybody_present(room_id: str, *devices: Device) -> None:
    """Waits until each device shows all the others as joined and knows their keys."""
    people = {device.user_id for device in devices}
    await each_until(
        devices, "all joined", lambda device: all(joined(device, room_id, who) for who in people)
    )
    for device in devices:
        await device.knows_devices(*(other for other in devices if other is not device))


def joined(device: Device, room_id: str, user_id: str) -> bool:
    """Whether the device shows this user as a member that has joined."""
    room = device.client.rooms.get(room_id)
    return room is not None and user_id in room.users and not room.users[user_id].invited


async def verify_each_other(one: Device, two: Device) -> None:
    """The two compare short authentication strings, as people do with emoji on both screens."""
    await one.knows_devices(two)
    await two.knows_devices(one)
    their_device = one.client.device_store[two.user_id][two.device_id]
    answered(await one.client.start_key_verification(their_device), ToDeviceResponse)
    sas = one.client.get_active_sas(two.user_id, two.device_id)
    offers = two.client.key_verifications
    offered = await two.until("the verification offer", lambda: offers.get(sas.transaction_id))
    answered(await two.client.accept_key_verification(sas.transaction_id), ToDeviceResponse)
    await one.until("the other's half of the key", lambda: sas.established_sas)
    await two.until("the other's half of the key", lambda: offered.established_sas)
    assert sas.get_emoji() == offered.get_emoji()
    answered(await one.client.confirm_short_auth_string(sas.transaction_id), ToDeviceResponse)
    answered(await two.client.confirm_short_auth_string(sas.transaction_id), ToDeviceResponse)
    await one.until("the other device as verified", lambda: sas.verified)
    await two.until("the other device as verified", lambda: offered.verified)


async def test_two_logins_are_two_named_devices_and_logging_out_ends_only_one(register: Register) -> None:
    phone = await register("alice")
    laptop = await phone.another("laptop")
    names = {phone.device_id: "phone", laptop.device_id: "laptop"}
    assert await phone.device_names() == names
    answered(
        await laptop.client.update_device(phone.device_id, {"display_name": "old phone"}),
        UpdateDeviceResponse,
    )
    assert (await phone.device_names())[phone.device_id] == "old phone"

    await phone.pause()
    answered(await phone.client.logout(), LogoutResponse)
    assert await laptop.device_names() == {laptop.device_id: "laptop"}
    who = answered(await laptop.client.whoami(), WhoamiResponse)
    assert (who.user_id, who.device_id) == (laptop.user_id, laptop.device_id)


async def test_logging_out_everywhere_ends_every_token(register: Register) -> None:
    phone = await register("alice")
    laptop = await phone.another("laptop")
    tokens = {device: device.client.access_token for device in (phone, laptop)}
    for device in tokens:
        await device.pause()
    answered(await laptop.client.logout(all_devices=True), LogoutResponse)
    for device, token in tokens.items():
        device.client.access_token = token
        assert refused(await device.client.whoami()) == "M_UNKNOWN_TOKEN"


async def test_wrong_password_and_taken_name_are_refused(register: Register) -> None:
    phone = await register("alice")
    await phone.pause()
    local_part = phone.user_id[1:].partition(":")[0]
    answered(await phone.client.logout(), LogoutResponse)
    assert refused(await phone.client.login("wrong " + PASSWORD)) == "M_FORBIDDEN"
    assert refused(await phone.client.register(local_part, PASSWORD)) == "M_USER_IN_USE"


async def test_a_lost_device_is_deleted_after_giving_the_password(register: Register) -> None:
    phone = await register("alice")
    lost = await phone.another("lost")
    await lost.pause()
    challenge = answered(await phone.client.delete_devices([lost.device_id]), DeleteDevicesAuthResponse)
    auth = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": phone.user_id},
        "password": PASSWORD,
        "session": challenge.session,
    }
    answered(await phone.client.delete_devices([lost.device_id], auth), DeleteDevicesResponse)
    assert await phone.device_names() == {phone.device_id: "phone"}
    assert refused(await lost.client.whoami()) == "M_UNKNOWN_TOKEN"


async def test_encrypted_messages_are_read_on_every_device_of_both_people(register: Register) -> None:
    alice, bob = await register("alice"), await register("bob")
    alice_laptop, bob_laptop = await alice.another("laptop"), await bob.another("laptop")
    room_id = await encrypted_room(alice, bob)
    devices = (alice, alice_laptop, bob, bob_laptop)
    await everybody_present(room_id, *devices)

    spoken = [
        (alice, "hello from the phone"),
        (bob_laptop, "hello from a laptop"),
        (alice_laptop, "so many screens"),
    ]
    for speaker, text in spoken:
        await speaker.say(room_id, text)
        for device in devices:
            message = await device.sees_text(room_id, text)
            assert message.sender == speaker.user_id
            assert message.decrypted
    for device in devices:
        assert device.texts(room_id) == [text for _, text in spoken]


async def test_the_server_only_ever_sees_ciphertext(register: Register) -> None:
    alice, bob = await register("alice"), await register("bob")
    room_id = await encrypted_room(alice, bob)
    secret = await alice.say(room_id, "between you and me")
    await bob.sees_text(room_id, "between you and me")
    keyless = await alice.another("new laptop")
    stored = answered(await keyless.client.room_get_event(room_id, secret), RoomGetEventResponse).event
    assert stored.source["type"] == "m.room.encrypted"
    assert "between you and me" not in str(stored.source)


async def test_switching_encryption_on_in_an_open_room_hides_what_follows(register: Register) -> None:
    alice, bob = await register("alice"), await register("bob")
    room_id = await alice.create_room(invite=[bob.user_id])
    await bob.accept_invite(room_id)
    await alice.say(room_id, "in the open")
    assert not (await bob.sees_text(room_id, "in the open")).decrypted

    encryption = {"algorithm": "m.megolm.v1.aes-sha2"}
    switched = await alice.client.room_put_state(room_id, "m.room.encryption", encryption)
    answered(switched, RoomPutStateResponse)
    await each_until((alice, bob), "encryption", lambda device: device.client.rooms[room_id].encrypted)
    await everybody_present(room_id, alice, bob)
    await alice.say(room_id, "behind the curtain")
    assert (await bob.sees_text(room_id, "behind the curtain")).decrypted


async def test_devices_verify_each_other_by_emoji(register: Register) -> None:
    alice, bob = await register("alice"), await register("bob")
    laptop = await alice.another("laptop")
    room_id = await encrypted_room(alice, bob)
    await everybody_present(room_id, alice, laptop, bob)
    await verify_each_other(alice, laptop)
    await verify_each_other(bob, alice)
    assert alice.client.device_store[bob.user_id][bob.device_id].verified
    assert bob.client.device_store[alice.user_id][alice.device_id].verified

    await alice.say(room_id, "it is really me")
    assert (await bob.sees_text(room_id, "it is really me")).verified
    await laptop.say(room_id, "and my laptop")
    assert not (await bob.sees_text(room_id, "and my laptop")).verified


async def test_a_later_device_gets_old_keys_from_its_verified_sibling(register: Register) -> None:
    alice, bob = await register("alice"), await register("bob")
    room_id = await encrypted_room(alice, bob)
    await bob.say(room_id, "before the tablet")
    await alice.sees_text(room_id, "before the tablet")

    tablet = await alice.another("tablet")
    history = answered(
        await tablet.client.room_messages(room_id, tablet.client.next_batch, limit=20), RoomMessagesResponse
    )
    locked = next(event for event in history.chunk if isinstance(event, MegolmEvent))
    await verify_each_other(tablet, alice)
    await alice.say(room_id, "welcome, tablet")
    await tablet.sees_text(room_id, "welcome, tablet")
    await tablet.client.request_room_key(locked)
    await tablet.until("the forwarded key", lambda: not tablet.client.outgoing_key_requests)
    assert tablet.client.decrypt_event(locked).body == "before the tablet"


async def test_encrypted_pictures_travel_both_ways(register: Register) -> None:
    alice, bob = await register("alice"), await register("bob")
    room_id = await encrypted_room(alice, bob)
    for sender, receiver, colour in ((alice, bob, "teal"), (bob, alice, "orange")):
        original = picture(colour)
        mxc, keys = await upload(sender, original, encrypt=True)
        await sender.send(
            room_id, {"msgtype": "m.image", "body": f"{colour}.png", "file": {"url": mxc, **keys}}
        )

        def received(device: Device = receiver, name: str = f"{colour}.png") -> RoomEncryptedImage | None:
            images = (e for e in device.timeline[room_id] if isinstance(e, RoomEncryptedImage))
            return next((image for image in images if image.body == name), None)

        image = await receiver.until(f"the {colour} picture", received)
        ciphertext = await download(receiver, image.url)
        assert ciphertext != original
        assert decrypt_attachment(ciphertext, image.key["k"], image.hashes["sha256"], image.iv) == original


async def test_an_open_picture_has_a_smaller_thumbnail(register: Register) -> None:
    alice = await register("alice")
    mxc, _ = await upload(alice, picture("teal"), encrypt=False)
    assert await download(alice, mxc) == picture("teal")
    server_name, media_id = mxc.removeprefix("mxc://").split("/")
    small = answered(await alice.client.thumbnail(server_name, media_id, 96, 96), ThumbnailResponse)
    with Image.open(BytesIO(small.body)) as thumbnail:
        width, height = thumbnail.size
        assert 96 <= width < 640
        assert 72 <= height < 480


async def test_unread_messages_are_counted_until_read_on_any_device(register: Register) -> None:
    alice, bob = await register("alice"), await register("bob")
    laptop = await bob.another("laptop")
    room_id = await encrypted_room(alice, bob)
    await alice.say(room_id, "one")
    last = await alice.say(room_id, "two")

    def unread(device: Device) -> int | None:
        room = device.client.rooms.get(room_id)
        return None if room is None else int(room.unread_notifications)

    await each_until((bob, laptop), "two unread messages", lambda device: unread(device) == 2)
    answered(await bob.client.room_read_markers(room_id, last, last), RoomReadMarkersResponse)
    await each_until((bob, laptop), "nothing unread", lambda device: unread(device) == 0)
    await each_until(
        (bob, laptop),
        "the read marker",
        lambda device: device.client.rooms[room_id].fully_read_marker == last,
    )


async def test_the_writer_sees_how_far_the_other_has_read(register: Register) -> None:
    alice, bob = await register("alice"), await register("bob")
    room_id = await encrypted_room(alice, bob)
    room = alice.client.rooms[room_id]
    first, second = await alice.say(room_id, "first"), await alice.say(room_id, "second")
    await bob.sees_text(room_id, "second")
    answered(await bob.client.room_read_markers(room_id, first, first), RoomReadMarkersResponse)
    await alice.until(
        "bob's receipt at the first",
        lambda: bob.user_id in room.read_receipts and room.read_receipts[bob.user_id].event_id == first,
    )
    answered(await bob.client.update_receipt_marker(room_id, second), UpdateReceiptMarkerResponse)
    threads = room.threaded_read_receipts
    await alice.until(
        "bob's receipt at the second, in the main thread",
        lambda: bob.user_id in threads and threads[bob.user_id]["main"].event_id == second,
    )


async def test_typing_is_shown_while_it_lasts(register: Register) -> None:
    alice, bob = await register("alice"), await register("bob")
    room_id = await encrypted_room(alice, bob)
    room = alice.client.rooms[room_id]
    answered(await bob.client.room_typing(room_id, True, timeout=30_000), RoomTypingResponse)
    await alice.until("bob typing", lambda: room.typing_users == [bob.user_id])
    answered(await bob.client.room_typing(room_id, False), RoomTypingResponse)
    await alice.until("bob no longer typing", lambda: room.typing_users == [])
    answered(await bob.client.room_typing(room_id, True, timeout=1_000), RoomTypingResponse)
    await alice.until("bob typing again", lambda: room.typing_users == [bob.user_id])
    await alice.until("the notice expired", lambda: room.typing_users == [])


async def test_presence_and_status_are_shown_to_people_in_a_shared_room(register: Register) -> None:
    alice, bob = await register("alice"), await register("bob")
    room_id = await encrypted_room(alice, bob)
    member = alice.client.rooms[room_id].users[bob.user_id]
    await alice.until("bob online", lambda: member.presence == "online")
    answered(await bob.client.set_presence("unavailable", "having lunch"), PresenceSetResponse)
    # nio's poll that is under way still says "online"; a message ends it, and its next one says "away".
    await alice.say(room_id, "are you there?")
    away = ("unavailable", "having lunch")
    await alice.until("bob away", lambda: (member.presence, member.status_msg) == away)


async def test_reaction_edit_and_redaction_reach_the_other_side(register: Register) -> None:
    alice, bob = await register("alice"), await register("bob")
    room_id = await encrypted_room(alice, bob)
    original = await alice.say(room_id, "I shall come at fife")
    await bob.sees_text(room_id, "I shall come at fife")

    await bob.send(
        room_id,
        {"m.relates_to": {"rel_type": "m.annotation", "event_id": original, "key": "👍"}},
        "m.reaction",
    )
    reaction = await alice.sees_event(room_id, ReactionEvent)
    assert (reaction.reacts_to, reaction.key, reaction.sender) == (original, "👍", bob.user_id)

    corrected = {"msgtype": "m.text", "body": "I shall come at five"}
    relation = {"rel_type": "m.replace", "event_id": original}
    edit = {
        "msgtype": "m.text",
        "body": "* I shall come at five",
        "m.new_content": corrected,
        "m.relates_to": relation,
    }
    await alice.send(room_id, edit)
    seen = await bob.sees_text(room_id, "* I shall come at five")
    assert seen.source["content"]["m.new_content"] == corrected
    assert seen.source["content"]["m.relates_to"] == relation

    answered(await alice.client.room_redact(room_id, original, "changed my mind"), RoomRedactResponse)
    redaction = await bob.sees_event(room_id, RedactionEvent)
    assert (redaction.redacts, redaction.reason, redaction.sender) == (
        original,
        "changed my mind",
        alice.user_id,
    )
    reread = answered(await bob.client.room_get_event(room_id, original), RoomGetEventResponse).event
    assert isinstance(reread, RedactedEvent)
    assert (reread.redacter, reread.reason) == (alice.user_id, "changed my mind")


async def test_a_restarted_client_gets_what_it_missed_once_and_in_order(register: Register) -> None:
    alice, bob = await register("alice"), await register("bob")
    room_id = await encrypted_room(alice, bob)
    await bob.say(room_id, "seen before")
    await alice.sees_text(room_id, "seen before")
    await alice.stop()
    missed = [f"while you were out {number}" for number in range(5)]
    for text in missed:
        await bob.say(room_id, text)

    again = await alice.restarted()
    await again.sees_text(room_id, missed[-1])
    await bob.say(room_id, "welcome back")
    await again.sees_text(room_id, "welcome back")
    assert again.texts(room_id) == [*missed, "welcome back"]
    await everybody_present(room_id, again, bob)
    await again.say(room_id, "thanks")
    assert (await bob.sees_text(room_id, "thanks")).decrypted


async def test_history_is_paged_back_to_the_first_message_without_gap_or_repeat(register: Register) -> None:
    alice = await register("alice")
    room_id = await alice.create_room(name="Diary")
    written = [await alice.say(room_id, f"entry {number}") for number in range(25)]
    laptop = await alice.another("laptop")

    async def pages(start: str | None, direction: MessageDirection) -> list[str]:
        found: list[str] = []
        while start is not None:
            page = answered(
                await laptop.client.room_messages(room_id, start, direction=direction, limit=7),
                RoomMessagesResponse,
            )
            found += [event.event_id for event in page.chunk if event.event_id in written]
            start = page.end if page.chunk else None
        return found

    assert await pages(laptop.client.next_batch, MessageDirection.back) == written[::-1]
    middle = answered(await laptop.client.room_context(room_id, written[12], limit=4), RoomContextResponse)
    around = [*reversed(middle.events_before), middle.event, *middle.events_after]
    assert [event.event_id for event in around] == written[10:15]
    assert await pages(middle.start, MessageDirection.back) == written[9::-1]
    assert await pages(middle.end, MessageDirection.front) == written[15:]


async def test_a_public_room_is_found_by_search_and_alias_and_joined(register: Register) -> None:
    alice, bob = await register("alice"), await register("bob")
    word = f"beekeeping{alice.device_id.lower()}"
    room_id = await alice.create_room(
        visibility=RoomVisibility.public,
        preset=RoomPreset.public_chat,
        alias=word,
        name=word,
        topic="Hives and honey",
    )
    listed = answered(
        await bob.client.list_public_rooms(filter_generic_search_term=word), PublicRoomsResponse
    )
    assert [(room.room_id, room.topic, room.num_joined_members) for room in listed.public_rooms] == [
        (room_id, "Hives and honey", 1)
    ]
    alias = listed.public_rooms[0].canonical_alias
    found = answered(await bob.client.room_resolve_alias(alias), RoomResolveAliasResponse)
    assert found.room_id == room_id
    await bob.client.join(alias)
    await bob.until("the room", lambda: bob.client.rooms.get(room_id))
    assert bob.client.rooms[room_id].display_name == word
    await alice.until("bob", lambda: joined(alice, room_id, bob.user_id))


async def test_names_and_pictures_of_people_follow_into_their_rooms(register: Register) -> None:
    alice, bob = await register("alice"), await register("bob")
    room_id = await encrypted_room(alice, bob)
    mxc, _ = await upload(bob, picture("navy"), encrypt=False)
    answered(await bob.client.set_displayname("Bob the Builder"), ProfileSetDisplayNameResponse)
    answered(await bob.client.set_avatar(mxc), ProfileSetAvatarResponse)
    room = alice.client.rooms[room_id]
    await alice.until("bob's new name", lambda: room.user_name(bob.user_id) == "Bob the Builder")
    await alice.until("bob's new picture", lambda: room.avatar_url(bob.user_id) == mxc)


async def test_a_kicked_person_is_told_why_and_hears_no_more(register: Register) -> None:
    alice, bob = await register("alice"), await register("bob")
    room_id = await encrypted_room(alice, bob)
    other_room = await encrypted_room(alice, bob)
    answered(await alice.client.room_kick(room_id, bob.user_id, "too loud"), RoomKickResponse)
    await alice.until("bob gone", lambda: bob.user_id not in alice.client.rooms[room_id].users)
    await alice.say(room_id, "peace at last")
    await alice.say(other_room, "still friends")
    await bob.sees_text(other_room, "still friends")
    assert "peace at last" not in bob.texts(room_id)
    assert "🔒" not in bob.texts(room_id)
    late = await bob.client.room_put_state(room_id, "m.room.topic", {"topic": "me too"})
    assert refused(late) == "M_FORBIDDEN"

    answered(await alice.client.room_invite(room_id, bob.user_id), RoomInviteResponse)
    await bob.until("an invite back", lambda: bob.client.invited_rooms.get(room_id))
    answered(await bob.client.room_leave(room_id), RoomLeaveResponse)
    answered(await bob.client.room_forget(room_id), RoomForgetResponse)


async def test_a_knock_is_seen_and_answered_with_an_invite(register: Register) -> None:
    alice, bob = await register("alice"), await register("bob")
    rules = {"type": "m.room.join_rules", "state_key": "", "content": {"join_rule": "knock"}}
    room_id = await alice.create_room(initial_state=[rules])
    answered(await bob.client.room_knock(room_id, "may I come in?"), RoomKnockResponse)

    def knocked() -> RoomMemberEvent | None:
        members = (event for event in alice.timeline[room_id] if isinstance(event, RoomMemberEvent))
        return next((event for event in members if event.membership == "knock"), None)

    knock = await alice.until("a knock", knocked)
    assert (knock.state_key, knock.content["reason"]) == (bob.user_id, "may I come in?")
    answered(await alice.client.room_invite(room_id, bob.user_id), RoomInviteResponse)
    await bob.accept_invite(room_id)


async def test_an_upgraded_room_points_its_members_to_the_new_one(register: Register) -> None:
    alice, bob = await register("alice"), await register("bob")
    room_id = await alice.create_room(room_version="10", name="Old house", invite=[bob.user_id])
    await bob.accept_invite(room_id)
    upgraded = answered(await alice.client.room_upgrade(room_id, "11"), RoomUpgradeResponse)
    await bob.until("the tombstone", lambda: bob.client.rooms[room_id].replacement_room == upgraded.room_id)
    await alice.until("the new room", lambda: alice.client.rooms.get(upgraded.room_id))
    new_room = alice.client.rooms[upgraded.room_id]
    assert (new_room.room_version, new_room.name) == ("11", "Old house")


async def test_a_space_shows_the_rooms_in_it(register: Register) -> None:
    alice = await register("alice")
    server_name = alice.user_id.partition(":")[2]
    space = await alice.create_room(space=True, name="Neighbourhood")
    houses = {await alice.create_room(name=name): name for name in ("Number one", "Number two")}
    for house in houses:
        link = await alice.client.room_put_state(space, "m.space.child", {"via": [server_name]}, house)
        answered(link, RoomPutStateResponse)
    tree = answered(await alice.client.space_get_hierarchy(space), SpaceGetHierarchyResponse)
    assert {room["room_id"]: room["name"] for room in tree.rooms} == {space: "Neighbourhood", **houses}


async def test_a_thread_is_listed_with_its_replies(register: Register) -> None:
    alice, bob = await register("alice"), await register("bob")
    room_id = await alice.create_room(invite=[bob.user_id])
    await bob.accept_invite(room_id)
    root = await alice.say(room_id, "where shall we eat?")
    replies = [
        await bob.send(
            room_id,
            {"msgtype": "m.text", "body": body, "m.relates_to": {"rel_type": "m.thread", "event_id": root}},
        )
        for body in ("noodles", "soup")
    ]
    listed = [event async for event in alice.client.room_get_threads(room_id)]
    assert [event.event_id for event in listed] == [root]
    summary = listed[0].source["unsigned"]["m.relations"]["m.thread"]
    assert (summary["count"], summary["latest_event"]["event_id"]) == (2, replies[-1])
    related = [
        event.event_id async for event in alice.client.room_get_event_relations(room_id, root, limit=1)
    ]
    assert related == replies[::-1]


async def test_one_message_sent_twice_with_the_same_transaction_is_shown_once(register: Register) -> None:
    alice, bob = await register("alice"), await register("bob")
    room_id = await alice.create_room(invite=[bob.user_id])
    await bob.accept_invite(room_id)
    content = {"msgtype": "m.text", "body": "click"}
    sent = await asyncio.gather(
        *(alice.client.room_send(room_id, "m.room.message", content, tx_id="button") for _ in range(3))
    )
    assert len({answered(response, RoomSendResponse).event_id for response in sent}) == 1
    await alice.say(room_id, "done")
    await bob.sees_text(room_id, "done")
    assert bob.texts(room_id) == ["click", "done"]
