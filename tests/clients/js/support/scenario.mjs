// Runs one script as a list of named steps. Each step prints one JSON line; the first that fails also prints
// the last requests of all devices, and ends the script with exit code 1.
import { randomBytes } from "node:crypto";

import { Device } from "./device.mjs";

const PATIENCE_MS = 20_000;
const REQUESTS_SHOWN = 25;

const requests = [];
const devices = [];
let steps = 0;

function print(line) {
    process.stdout.write(`${JSON.stringify(line)}\n`);
}

function remember(request) {
    requests.push(request);
    if (requests.length > REQUESTS_SHOWN) requests.shift();
}

// Runs one step; gives what it returns.
export async function step(name, action) {
    const begin = Date.now();
    try {
        const result = await action();
        steps += 1;
        print({ step: name, ok: true, ms: Date.now() - begin });
        return result;
    } catch (error) {
        print({ step: name, ok: false, error: String(error.stack ?? error), requests });
        throw error;
    }
}

// Waits until `probe` gives something true, and gives it; an Error names `what` if it never does.
export async function until(what, probe) {
    const deadline = Date.now() + PATIENCE_MS;
    for (;;) {
        const seen = await probe();
        if (seen) return seen;
        if (Date.now() > deadline) throw new Error(`never saw: ${what}`);
        await new Promise((resolve) => setTimeout(resolve, 20));
    }
}

// A new account `name` (made unique) on the server of this run, and its first device.
export function register(name) {
    const world = { baseUrl: process.argv[2], remember, devices };
    return Device.register(world, `${name}-${randomBytes(4).toString("hex")}`);
}

// Runs `story`, closes every device, and ends the process with its verdict.
export async function scenario(story) {
    let verdict = 1;
    try {
        await story();
        verdict = 0;
        print({ done: true, steps });
    } catch (error) {
        print({ done: false, steps, error: String(error.message ?? error) });
    }
    for (const device of devices) device.client.stopClient();
    process.exit(verdict);
}
