// Two devices compare emoji, as people do with both screens before them.
import assert from "node:assert/strict";

import { until } from "./scenario.mjs";

const READY = 3;
const DONE = 6;

function offered(device) {
    return new Promise((resolve) => device.client.once("crypto.verificationRequestReceived", resolve));
}

function shown(verifier) {
    const callbacks = verifier.getShowSasCallbacks();
    if (callbacks) return Promise.resolve(callbacks);
    return new Promise((resolve) => verifier.once("show_sas", resolve));
}

// `request` makes the first device ask; `responder` is the device that accepts.
export async function verifyByEmoji(responder, request) {
    const offer = offered(responder);
    const asked = await request();
    const accepted = await offer;
    await accepted.accept();
    await until("the request accepted", () => asked.phase === READY);

    const verifier = await asked.startVerification("m.sas.v1");
    const finished = verifier.verify();
    const answer = await until("the verification started", () => accepted.verifier);
    const answered = answer.verify();
    const [ours, theirs] = await Promise.all([shown(verifier), shown(answer)]);
    assert.equal(ours.sas.emoji.length, 7);
    assert.deepEqual(ours.sas.emoji, theirs.sas.emoji);
    await Promise.all([ours.confirm(), theirs.confirm(), finished, answered]);
    await until("both sides done", () => asked.phase === DONE && accepted.phase === DONE);
}
