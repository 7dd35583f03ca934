// A PNG of 64 by 48 pixels in one colour, made by hand so that no image library is needed.
import { crc32, deflateSync } from "node:zlib";

const WIDTH = 64;
const HEIGHT = 48;

function chunk(type, body) {
    const head = Buffer.from(type, "latin1");
    const frame = Buffer.alloc(12 + body.length);
    frame.writeUInt32BE(body.length, 0);
    head.copy(frame, 4);
    body.copy(frame, 8);
    frame.writeUInt32BE(crc32(Buffer.concat([head, body])), 8 + body.length);
    return frame;
}

// `colour` is [red, green, blue].
export function picture(colour) {
    const header = Buffer.alloc(13);
    header.writeUInt32BE(WIDTH, 0);
    header.writeUInt32BE(HEIGHT, 4);
    header.set([8, 2, 0, 0, 0], 8);
    const row = Buffer.from([0, ...Array(WIDTH).fill(colour).flat()]);
    const pixels = deflateSync(Buffer.concat(Array(HEIGHT).fill(row)));
    const signature = Buffer.from("\x89PNG\r\n\x1a\n", "latin1");
    return new Uint8Array(
        Buffer.concat([
            signature,
            chunk("IHDR", header),
            chunk("IDAT", pixels),
            chunk("IEND", Buffer.alloc(0)),
        ]),
    );
}
