// Group calls as Element Call makes them (MatrixRTC), without the media: who is in a call, and who has gone.
import assert from "node:assert/strict";

import { register, scenario, step, until } from "./support/scenario.mjs";

const MEMBER = "org.matrix.msc3401.call.member";
const KEEP_ALIVE = { delayedLeaveEventDelayMs: 3_000, delayedLeaveEventRestartMs: 500, manageMediaKeys: false };
const LATER_MS = 60_000;

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const message = (body) => ({ msgtype: "m.text", body });

await scenario(async () => {
    const [alice, bob] = await step("two people register and sync", () =>
        Promise.all(["alice", "bob"].map(async (name) => (await register(name)).start())),
    );
    const roomId = await step("a room lets all of its members take part in calls", async () => {
        const created = await alice.createRoom({
            preset: "public_chat",
            power_level_content_override: { events: { [MEMBER]: 0 } },
        });
        await bob.client.joinRoom(created);
        await until("the room", () => bob.membership(created) === "join");
        return created;
    });
    const sessionOf = (device) => device.client.matrixRTC.getRoomSession(device.room(roomId));
    const inCall = (device) => sessionOf(device).memberships.map((member) => member.userId);
    const join = (device) => {
        const { userId, deviceId } = device;
        const identity = { userId, deviceId, memberId: `${userId}:${deviceId}` };
        sessionOf(device).joinRTCSession(identity, [], undefined, KEEP_ALIVE);
    };
    const waiting = async (device) => (await device.client._unstable_getDelayedEvents()).delayed_events;

    await step("the server is asked who carries calls", async () => {
        assert.deepEqual(await alice.client._unstable_getRTCTransports(), []);
    });

    await step("somebody in a call stays there as long as their app is heard of", async () => {
        join(alice);
        await until("alice in the call", () => inCall(bob).length === 1);
        await pause(2 * KEEP_ALIVE.delayedLeaveEventDelayMs);
        assert.deepEqual(inCall(bob), [alice.userId]);
        const [leave, ...others] = await waiting(alice);
        assert.deepEqual([leave.room_id, leave.type, leave.content], [roomId, MEMBER, {}]);
        assert.deepEqual(others, []);
    });

    await step("somebody else joins the call, and leaves it", async () => {
        join(bob);
        await until("bob in the call", () => inCall(alice).length === 2);
        assert.equal(await sessionOf(bob).leaveRoomSession(5_000), true);
        await until("bob gone", () => inCall(alice).length === 1);
        assert.deepEqual(await waiting(bob), []);
    });

    await step("whose app is heard of no more has left the call", async () => {
        alice.world.gone = true;
        await until("alice gone", () => inCall(bob).length === 0);
    });

    await step("an app that was asleep is in the call again when it wakes up", async () => {
        alice.world.gone = false;
        await until("alice in the call", () => inCall(bob).length === 1);
        assert.equal(await sessionOf(alice).leaveRoomSession(5_000), true);
        await until("alice gone", () => inCall(bob).length === 0);
    });

    await step("messages are scheduled, put off, sent and cancelled", async () => {
        const { client } = bob;
        const later = (body, delay) =>
            client._unstable_sendDelayedEvent(roomId, { delay }, null, "m.room.message", message(body));
        const { delay_id: tea } = await later("tea", LATER_MS);
        const { delay_id: cake } = await later("cake", LATER_MS);
        const { delay_id: milk } = await later("milk", 2_000);
        await client._unstable_restartScheduledDelayedEvent(tea);
        await client._unstable_updateDelayedEvent(cake, "restart");
        assert.deepEqual((await waiting(bob)).map((event) => event.delay_id).sort(), [tea, cake, milk].sort());
        await client._unstable_cancelScheduledDelayedEvent(cake);
        await client._unstable_sendScheduledDelayedEvent(tea);
        await alice.seesText(roomId, "milk");
        assert.deepEqual(alice.texts(roomId), ["tea", "milk"]);
        assert.deepEqual(await waiting(bob), []);
    });
});
