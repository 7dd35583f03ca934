// Bob's client uses simplified sliding sync (MSC4186): a window on his rooms instead of all of them.
import assert from "node:assert/strict";

import { SlidingSync } from "matrix-js-sdk/lib/sliding-sync.js";

import { LONG_POLL_MS } from "./support/device.mjs";
import { register, scenario, step, until } from "./support/scenario.mjs";

const WINDOW = "window";
const STATE = [
    ["m.room.create", ""],
    ["m.room.encryption", ""],
    ["m.room.name", ""],
    ["m.room.power_levels", ""],
    ["m.room.member", "$LAZY"],
    ["m.room.member", "$ME"],
];

// Starts `device` with its `shown` most recent rooms, one event each, and with more of the `opened` rooms;
// gives the connection.
async function startSliding(device, shown, opened = []) {
    const list = { ranges: [[0, shown - 1]], timeline_limit: 1, required_state: STATE };
    const subscription = { timeline_limit: 30, required_state: STATE };
    const lists = new Map([[WINDOW, list]]);
    const connection = new SlidingSync(device.world.baseUrl, lists, subscription, device.client, LONG_POLL_MS);
    connection.modifyRoomSubscriptions(new Set(opened));
    await device.start({ slidingSync: connection });
    return connection;
}

await scenario(async () => {
    const alice = await step("alice registers and uses the classic sync", async () =>
        (await register("alice")).start(),
    );
    const bob = await step("bob registers", () => register("bob"));
    const connection = await step("bob starts with a window of two rooms", () => startSliding(bob, 2));
    const shownRooms = () => bob.client.getRooms().map((room) => room.roomId);

    await step("a new account has an empty list", () => {
        assert.equal(connection.getListData(WINDOW).joinedCount, 0);
        assert.deepEqual(shownRooms(), []);
    });

    const roomId = await step("an invite is shown with the name of the room and who invites", async () => {
        const created = await alice.createEncryptedRoom({ name: "Den", invite: [bob.userId] });
        await until(
            "the invite",
            () => bob.membership(created) === "invite" && bob.room(created).name === "Den",
        );
        assert.equal(bob.room(created).getMember(bob.userId).events.member.getSender(), alice.userId);
        return created;
    });

    await step("after joining the room is shown with its state", async () => {
        await bob.client.joinRoom(roomId);
        await until(
            "the joined room",
            () => bob.membership(roomId) === "join" && bob.room(roomId).hasEncryptionStateEvent(),
        );
        await until("bob at alice", () => alice.room(roomId).getMember(bob.userId)?.membership === "join");
        await until("two members", () => bob.room(roomId).getJoinedMemberCount() === 2);
    });

    await step("encrypted messages are read on both sides", async () => {
        await alice.say(roomId, "can you read this through the window?");
        const event = await bob.seesText(roomId, "can you read this through the window?");
        assert.equal(event.isEncrypted(), true);
        await bob.say(roomId, "clear as glass");
        await alice.seesText(roomId, "clear as glass");
    });

    await step("bob's own message is shown once, not as an echo and again", async () => {
        await alice.say(roomId, "good");
        await bob.seesText(roomId, "good");
        assert.deepEqual(bob.texts(roomId), [
            "can you read this through the window?",
            "clear as glass",
            "good",
        ]);
    });

    await step("bob's reading is seen by alice", async () => {
        const last = await bob.seesText(roomId, "good");
        await bob.client.sendReadReceipt(last);
        await until(
            "the receipt at alice",
            () => alice.room(roomId).getEventReadUpTo(bob.userId) === last.getId(),
        );
    });

    await step("typing and read receipts of others are shown", async () => {
        const typing = () => bob.room(roomId).getMember(alice.userId)?.typing;
        await alice.client.sendTyping(roomId, true, 30_000);
        await until("alice typing", typing);
        await alice.client.sendTyping(roomId, false);
        await until("alice no longer typing", () => !typing());
        await bob.say(roomId, "did you see?");
        const seen = await alice.seesText(roomId, "did you see?");
        await alice.client.sendReadReceipt(seen);
        await until(
            "alice's receipt",
            () => bob.room(roomId).getEventReadUpTo(alice.userId) === seen.getId(),
        );
    });

    await step("a message from alice's new device is decrypted at once", async () => {
        const laptop = await (await alice.another("laptop")).start();
        await until("the room", () => laptop.membership(roomId) === "join");
        await until(
            "bob's device",
            async () => (await laptop.crypto.getUserDeviceInfo([bob.userId], true)).get(bob.userId)?.size,
        );
        await laptop.say(roomId, "from my new laptop");
        await bob.seesText(roomId, "from my new laptop");
        await bob.say(roomId, "welcome, laptop");
        await laptop.seesText(roomId, "welcome, laptop");
    });

    await step("settings and tags made on another device arrive", async () => {
        const phone = await (await bob.another("phone")).start();
        await phone.client.setAccountData("org.example.theme", { dark: true });
        await until("the setting", () => bob.client.getAccountData("org.example.theme")?.getContent().dark);
        await until("the room", () => phone.room(roomId));
        await phone.client.setRoomTag(roomId, "m.favourite", { order: 0.5 });
        await until("the tag", () => bob.room(roomId).tags["m.favourite"]?.order === 0.5);
    });

    const others = await step("bob joins four more rooms; the list counts all five", async () => {
        const created = [];
        for (const name of ["one", "two", "three", "four"]) {
            const room = await alice.createRoom({ name, preset: "public_chat" });
            await bob.client.joinRoom(room);
            await alice.say(room, `hello from ${name}`);
            created.push(room);
        }
        await until("five rooms counted", () => connection.getListData(WINDOW).joinedCount === 5);
        return created;
    });

    await step(
        "a fresh connection shows only the two most recent rooms, then all when the window grows",
        async () => {
            const tablet = await bob.another("tablet");
            const window = await startSliding(tablet, 2);
            const visible = () =>
                tablet.client
                    .getRooms()
                    .map((room) => room.name)
                    .sort();
            await until("two rooms", () => visible().length === 2);
            assert.deepEqual(visible(), ["four", "three"]);
            assert.equal(window.getListData(WINDOW).joinedCount, 5);

            await alice.say(others[0], "one is awake again");
            await until("the woken room", () => tablet.texts(others[0]).includes("one is awake again"));
            assert.deepEqual(visible(), ["four", "one", "three"]);

            window.setListRanges(WINDOW, [[0, 9]]);
            await until("all five rooms", () => visible().length === 5);
            assert.deepEqual(visible(), ["Den", "four", "one", "three", "two"]);
        },
    );

    await step("a room opened from a link shows its messages, though it is outside the window", async () => {
        for (const text of ["first", "second", "third"]) await alice.say(others[2], text);
        await alice.say(others[1], "the latest of all");
        const desktop = await bob.another("desktop");
        await startSliding(desktop, 1, [others[2]]);
        await until("both rooms", () => desktop.client.getRooms().length === 2);
        assert.deepEqual(desktop.texts(others[1]), ["the latest of all"]);
        assert.deepEqual(desktop.texts(others[2]), ["hello from three", "first", "second", "third"]);
    });

    await step("a room that bob leaves is no longer counted", async () => {
        await bob.client.leave(others[3]);
        await alice.say(others[2], "has anybody seen bob?");
        await until("four rooms counted", () => connection.getListData(WINDOW).joinedCount === 4);
    });

    await step("a logged out window is told so", async () => {
        const told = new Promise((resolve) => bob.client.once("Session.logged_out", resolve));
        const { devices } = await bob.client.getDevices();
        assert.equal(devices.length, 4);
        const phone = await bob.another("last phone");
        await phone.authenticate((auth) => phone.client.deleteDevice(bob.deviceId, auth ?? undefined));
        assert.equal((await told).errcode, "M_UNKNOWN_TOKEN");
    });
});
