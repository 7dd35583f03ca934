"""Running a server: its listeners, and its end; and what is the matter with one."""

import asyncio
import errno
import gc
import signal
import socket
import ssl
from contextlib import AsyncExitStack, suppress

import structlog
from aiohttp import web

from client_api.metrics_page import metrics_application
from client_api.replicas import HEADER, replica_token
from homeserver.app.stores import opened_store
from homeserver.app.wiring import App
from homeserver.bus.opening import make_bus, occupant_of
from homeserver.clock import system_clock
from homeserver.config import Config
from homeserver.config.units import Address
from homeserver.doctor.diagnosis import Diagnosis
from homeserver.doctor.findings import Finding
from homeserver.doctor.machine import absent
from homeserver.key_file import KeyFileError, load_or_create
from homeserver.metrics import GcPauses, registry_of
from homeserver.server_key import establish, retired_keys
from homeserver.tls import served_with
from rest.connections import runner_of
from rest.routes import Application
from storage.records import server_key as server_key_records

log = structlog.get_logger(__name__)


def own_address(config: Config) -> str:
    """Where the other replicas reach this one."""
    address = config.bus.address or config.listen[0]
    everywhere = address.host in ("0.0.0.0", "::")
    return f"{socket.getfqdn()}:{address.port}" if everywhere else str(address)


async def examined(config: Config) -> list[Finding]:
    """What is the matter with the server of a configuration, whether it runs or not."""
    proof = {}
    with suppress(KeyFileError):  # It is one of the findings.
        if not await asyncio.to_thread(absent, config.signing_key_path):
            proof[HEADER] = replica_token(load_or_create(config.signing_key_path))
    return await Diagnosis(config, lambda: opened_store(config), proof, system_clock).findings()


async def serve(config: Config) -> None:
    """Run the server until SIGINT or SIGTERM."""
    app = await _started(config)
    async with AsyncExitStack() as closing:
        if app.federation is not None:
            closing.push_async_callback(app.federation.close)
        closing.push_async_callback(app.close)
        await _listen(app, closing)
        gc.freeze()
        gc.set_threshold(50_000, 20, 50)
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        await stop.wait()
        log.info("stopping")
        app.answer_polls()


async def _started(config: Config) -> App:
    """The server, at work; a start that comes to nothing gives back what it took."""
    store = await opened_store(config)
    async with AsyncExitStack() as undo:
        undo.push_async_callback(store.close)
        known_key = store.collection(server_key_records.SERVER_KEY)
        await establish(config.signing_key_path, known_key)
        await store.claim(await occupant_of(config.bus, own_address(config)))
        bus = make_bus(config.bus, store.info, own_address(config), system_clock)
        app = App(config, store, bus, retired_keys=await retired_keys(known_key))
        if app.federation is not None:
            undo.push_async_callback(app.federation.close)
        await app.start()
        undo.pop_all()
    return app


async def _listen(app: App, closing: AsyncExitStack) -> None:
    """Open the listeners of a server, to be closed by `closing`. Raises OSError.

    The clients' come last: a server that answers them is all there.
    """
    config = app.config
    if config.metrics.listen is not None:
        page = metrics_application(registry_of(app.metrics(GcPauses())))
        await _listening(closing, "metrics.listen", page, config.metrics.listen)
    federation = config.federation
    if federation.listen:
        tls = None
        if federation.tls.certificate is not None and federation.tls.key is not None:
            tls = served_with(federation.tls.certificate, federation.tls.key)
        servers = app.federation_application()
        await _listening(closing, "federation.listen", servers, *federation.listen, tls=tls)
    await _listening(closing, "listen", app.web_application(), *config.listen)
    for address in (*config.listen, *federation.listen):
        log.info("listening", address=str(address), server_name=config.server_name)


async def _listening(
    closing: AsyncExitStack,
    option: str,
    application: Application,
    *addresses: Address,
    tls: ssl.SSLContext | None = None,
) -> None:
    """Listen where an option says. Raises OSError, for the person who set it."""
    runner = runner_of(application)
    await runner.setup()
    closing.push_async_callback(runner.cleanup)
    for address in addresses:
        try:
            await web.TCPSite(runner, address.host, address.port, ssl_context=tls).start()
        except OSError as error:
            raise OSError(f"{option}: cannot listen on {address}: {_why_not(error)}") from error


def _why_not(error: OSError) -> str:
    """Why an address cannot be listened on, and what to do about it."""
    if isinstance(error, socket.gaierror):
        return "this machine does not know the name; give an IP address, such as 0.0.0.0 for all"
    match error.errno:
        case errno.EADDRINUSE:
            return "something listens there already; stop it, or choose another port"
        case errno.EACCES:
            return "this user may not use the port; choose one from 1024 on, behind a reverse proxy"
        case errno.EADDRNOTAVAIL:
            return "this machine has no such address; name one that it has, or 0.0.0.0 for all"
        case _:
            return error.strerror or str(error)
