// A person on matrix-js-sdk for another program to talk to: says who it is, joins what it is invited to,
// answers every message it can decrypt with "echo: …", and ends when it reads "goodbye".
import { register, scenario, step, until } from "./support/scenario.mjs";

await scenario(async () => {
    const carol = await register("carol");
    await carol.start();
    process.stdout.write(`${JSON.stringify({ user_id: carol.userId })}\n`);

    const roomId = await step("an invite comes", async () => {
        const room = await until("an invite", () =>
            carol.client.getRooms().find((each) => each.getMyMembership() === "invite"),
        );
        await carol.acceptInvite(room.roomId);
        return room.roomId;
    });

    await step("messages are echoed until goodbye", async () => {
        const echoed = new Set();
        await until("goodbye", async () => {
            const heard = carol.texts(roomId).filter((text) => text !== "🔒" && !text.startsWith("echo: "));
            for (const text of heard) {
                if (echoed.has(text)) continue;
                echoed.add(text);
                await carol.say(roomId, `echo: ${text}`);
            }
            return echoed.has("goodbye");
        });
    });
});
