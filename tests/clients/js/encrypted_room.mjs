// Two people with two devices each, in an encrypted room: everything that a chat window shows.
import assert from "node:assert/strict";

import { Attachment, EncryptedAttachment } from "@matrix-org/matrix-sdk-crypto-wasm";

import { picture } from "./support/picture.mjs";
import { register, scenario, step, until } from "./support/scenario.mjs";
import { verifyByEmoji } from "./support/verification.mjs";

await scenario(async () => {
    const alice = await step("alice registers", () => register("alice"));
    const bob = await step("bob registers", () => register("bob"));
    const aliceLaptop = await step("alice logs in on a laptop", () => alice.another("laptop"));
    const bobLaptop = await step("bob logs in on a laptop", () => bob.another("laptop"));
    const everybody = [alice, aliceLaptop, bob, bobLaptop];
    await step("all four devices sync", () => Promise.all(everybody.map((device) => device.start())));

    await step("alice and bob set up cross-signing", async () => {
        for (const person of [alice, bob]) {
            await person.crypto.bootstrapCrossSigning({
                authUploadDeviceSigningKeys: (makeRequest) => person.authenticate(makeRequest),
            });
            assert.equal(await person.crypto.isCrossSigningReady(), true);
        }
    });

    await step("the laptops are verified by emoji and receive the signing keys", async () => {
        for (const [phone, laptop] of [
            [alice, aliceLaptop],
            [bob, bobLaptop],
        ]) {
            await until("the other session", async () => {
                const known = await laptop.crypto.getUserDeviceInfo([laptop.userId], true);
                return known.get(laptop.userId)?.has(phone.deviceId);
            });
            await verifyByEmoji(phone, () => laptop.crypto.requestOwnUserVerification());
            await until("the secrets on the laptop", async () => {
                const { privateKeysCachedLocally: cached } = await laptop.crypto.getCrossSigningStatus();
                return cached.masterKey && cached.selfSigningKey && cached.userSigningKey;
            });
            await until("the laptop as verified, on the phone", async () => {
                const status = await phone.crypto.getDeviceVerificationStatus(laptop.userId, laptop.deviceId);
                return status?.crossSigningVerified;
            });
        }
    });

    const roomId = await step("alice creates an encrypted room and invites bob", async () => {
        const created = await alice.createEncryptedRoom({
            name: "Den",
            invite: [bob.userId],
            is_direct: true,
        });
        await until("the invite with name and inviter", () => {
            const room = bob.room(created);
            return room?.name === "Den" && room.getMember(bob.userId)?.getDMInviter() === alice.userId;
        });
        return created;
    });

    await step("bob joins and all devices show two members", async () => {
        await bob.acceptInvite(roomId);
        for (const device of everybody) {
            await until("two members", () => device.room(roomId)?.getJoinedMemberCount() === 2);
            assert.equal(device.room(roomId).hasEncryptionStateEvent(), true);
        }
    });

    await step("messages are read on every device of both", async () => {
        const spoken = [
            [alice, "hello from the phone"],
            [bobLaptop, "hello to you"],
            [aliceLaptop, "so many screens"],
        ];
        for (const [speaker, text] of spoken) {
            await speaker.say(roomId, text);
            for (const device of everybody) {
                const event = await device.seesText(roomId, text);
                assert.equal(event.isEncrypted(), true);
                assert.equal(event.getSender(), speaker.userId);
            }
        }
        for (const device of everybody)
            assert.deepEqual(
                device.texts(roomId),
                spoken.map(([, text]) => text),
            );
    });

    await step("alice and bob verify each other inside the room", async () => {
        await verifyByEmoji(bob, () => alice.crypto.requestVerificationDM(bob.userId, roomId));
        for (const [one, other] of [
            [alice, bob],
            [bob, alice],
            [aliceLaptop, bob],
        ]) {
            await until("the other person as verified", async () => {
                const status = await one.crypto.getUserVerificationStatus(other.userId);
                return status.isCrossSigningVerified();
            });
        }
        await alice.say(roomId, "now with a green shield");
        const event = await bob.seesText(roomId, "now with a green shield");
        const { shieldColour } = await bob.crypto.getEncryptionInfoForEvent(event);
        assert.equal(shieldColour, 0);
    });

    await step("encrypted pictures travel both ways", async () => {
        for (const [sender, receiver, colour] of [
            [alice, bobLaptop, [0, 128, 128]],
            [bob, aliceLaptop, [255, 165, 0]],
        ]) {
            const original = picture(colour);
            const sealed = Attachment.encrypt(original);
            const keys = JSON.parse(sealed.mediaEncryptionInfo);
            const { content_uri: url } = await sender.client.uploadContent(
                Buffer.from(sealed.encryptedData),
                {
                    type: "application/octet-stream",
                    includeFilename: false,
                },
            );
            const body = `${colour.join("-")}.png`;
            const info = { mimetype: "image/png", size: original.length, w: 64, h: 48 };
            await sender.client.sendMessage(roomId, {
                msgtype: "m.image",
                body,
                file: { ...keys, url },
                info,
            });
            const shown = await receiver.seesEvent(roomId, body, (event) => event.getContent().body === body);
            const { file } = shown.getContent();
            const { bytes } = await receiver.download(file.url);
            const opened = Attachment.decrypt(new EncryptedAttachment(bytes, JSON.stringify(file)));
            assert.deepEqual(Buffer.from(opened), Buffer.from(original));
        }
    });

    await step("unread messages are counted and cleared on all devices by reading on one", async () => {
        await bob.client.sendReadReceipt(bob.timeline(roomId).at(-1));
        const unread = (device) => device.room(roomId).getUnreadNotificationCount("total");
        for (const device of [bob, bobLaptop]) await until("nothing unread", () => unread(device) === 0);
        await alice.say(roomId, "one");
        await alice.say(roomId, "two");
        for (const device of [bob, bobLaptop]) await until("two unread", () => unread(device) === 2);
        await bobLaptop.client.sendReadReceipt(await bobLaptop.seesText(roomId, "two"));
        for (const device of [bob, bobLaptop]) await until("nothing unread", () => unread(device) === 0);
    });

    await step("the writer sees who has read how far", async () => {
        const last = await alice.seesText(roomId, "two");
        for (const device of [alice, aliceLaptop]) {
            await until(
                "bob's receipt",
                () => device.room(roomId).getEventReadUpTo(bob.userId) === last.getId(),
            );
            assert.ok(device.room(roomId).getUsersReadUpTo(last).includes(bob.userId));
        }
    });

    await step("a private receipt clears the count without telling anybody", async () => {
        const before = alice.room(roomId).getEventReadUpTo(bob.userId);
        await alice.say(roomId, "psst");
        const unread = () => bob.room(roomId).getUnreadNotificationCount("total");
        await until("one unread", () => unread() === 1);
        await bob.client.sendReadReceipt(await bob.seesText(roomId, "psst"), "m.read.private");
        await until("nothing unread", () => unread() === 0);
        await bob.say(roomId, "I have seen nothing");
        await alice.seesText(roomId, "I have seen nothing");
        assert.notEqual(before, null);
        const receipts = alice.room(roomId).getReceiptsForEvent(await alice.seesText(roomId, "psst"));
        assert.deepEqual(
            receipts.filter(({ userId }) => userId === bob.userId),
            [],
        );
    });

    await step("typing is shown while it lasts", async () => {
        const typing = () => alice.room(roomId).getMember(bob.userId).typing;
        await bob.client.sendTyping(roomId, true, 30_000);
        await until("bob typing", typing);
        await bob.client.sendTyping(roomId, false);
        await until("bob no longer typing", () => !typing());
    });

    await step("presence and status text are shown", async () => {
        await until("bob online", () => alice.client.getUser(bob.userId)?.presence === "online");
        await bob.client.setPresence({ presence: "online", status_msg: "having lunch" });
        await until(
            "the status",
            () => alice.client.getUser(bob.userId).presenceStatusMsg === "having lunch",
        );
    });

    const typo = await step("alice writes with a typo", () => alice.say(roomId, "I shall come at fife"));

    await step("reactions are counted under the message", async () => {
        for (const device of [bob, aliceLaptop]) {
            await device.seesText(roomId, "I shall come at fife");
            await device.client.sendEvent(roomId, "m.reaction", {
                "m.relates_to": { rel_type: "m.annotation", event_id: typo, key: "👍" },
            });
        }
        await until("two thumbs", () => {
            const relations = bobLaptop
                .room(roomId)
                .relations.getChildEventsForEvent(typo, "m.annotation", "m.reaction");
            const [top] = relations?.getSortedAnnotationsByKey() ?? [];
            return top?.[0] === "👍" && top[1].size === 2;
        });
    });

    await step("an edit replaces the text on every device", async () => {
        const correction = { msgtype: "m.text", body: "I shall come at five" };
        await alice.client.sendMessage(roomId, {
            msgtype: "m.text",
            body: "* I shall come at five",
            "m.new_content": correction,
            "m.relates_to": { rel_type: "m.replace", event_id: typo },
        });
        for (const device of everybody) {
            const event = await device.seesText(roomId, "I shall come at five");
            assert.equal(event.getId(), typo);
            assert.ok(event.replacingEvent());
        }
    });

    await step("a reply quotes the message it answers", async () => {
        const { event_id: replyId } = await bob.client.sendMessage(roomId, {
            msgtype: "m.text",
            body: "five it is",
            "m.relates_to": { "m.in_reply_to": { event_id: typo } },
        });
        const reply = await alice.seesText(roomId, "five it is");
        assert.deepEqual([reply.getId(), reply.replyEventId], [replyId, typo]);
    });

    await step("a redaction removes the text and says by whom", async () => {
        await alice.client.redactEvent(roomId, typo, undefined, { reason: "changed my mind" });
        for (const device of everybody) {
            const event = await device.seesEvent(
                roomId,
                "the redaction",
                (each) => each.getId() === typo && each.isRedacted(),
            );
            const because = event.getRedactionEvent();
            assert.deepEqual([because.sender, because.content.reason], [alice.userId, "changed my mind"]);
            assert.equal(device.texts(roomId).includes("I shall come at five"), false);
        }
    });

    await step("a device that logs out no longer receives, and its owner sees it gone", async () => {
        await bobLaptop.client.logout(true);
        const { devices } = await bob.client.getDevices();
        assert.deepEqual(
            devices.map((device) => device.device_id),
            [bob.deviceId],
        );
        await until("one device of bob, at alice", async () => {
            const known = await alice.crypto.getUserDeviceInfo([bob.userId]);
            return known.get(bob.userId).size === 1;
        });
        await alice.say(roomId, "only for your phone");
        await bob.seesText(roomId, "only for your phone");
    });

    await step("bob leaves and alice is alone", async () => {
        await bob.client.leave(roomId);
        await until("bob gone", () => alice.room(roomId).getMember(bob.userId).membership === "leave");
        await until("left at bob", () => bob.membership(roomId) === "leave");
        await bob.client.forget(roomId);
        assert.equal(bob.room(roomId), null);
    });
});
