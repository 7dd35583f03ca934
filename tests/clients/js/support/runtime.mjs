// What matrix-js-sdk expects of its surroundings. Import this before the library.
// The library uses Promise.withResolvers, which Node 20 does not have yet.
import loglevel from "loglevel";

Promise.withResolvers ??= function withResolvers() {
    let resolve;
    let reject;
    const promise = new Promise((onResolve, onReject) => {
        resolve = onResolve;
        reject = onReject;
    });
    return { promise, resolve, reject };
};

// Standard output belongs to the steps; the library's own log would drown them.
for (const name of ["log", "debug", "info", "trace", "warn", "error"]) console[name] = () => {};
loglevel.disableAll(false);
