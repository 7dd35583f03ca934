"""A wire between two programs that a test may cut or make slow: a small TCP proxy on the loopback address."""

import asyncio
import contextlib
import socket
import struct

CHUNK = 64 * 1024
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER that has a closed socket answer with a reset."""


class Wire:
    """Carries bytes from its `address` to another one."""

    def __init__(self, target: str) -> None:
        self.target = target
        self._server: asyncio.Server | None = None
        self._ends: set[asyncio.StreamWriter] = set()
        self._carrying: set[asyncio.Task[None]] = set()
        self.delay = 0.0
        """Seconds that each piece takes in each direction."""
        self.held = 0
        """Bytes that came while nothing passed."""
        self._open = asyncio.Event()
        self._open.set()

    async def start(self, port: int = 0, *, host: str = "127.0.0.1") -> str:
        """Begin to carry; the address to connect to."""
        self._server = await asyncio.start_server(self._connected, host, port)
        port = self._server.sockets[0].getsockname()[1]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def cut(self) -> int:
        """Reset all connections; how many ends that were. New ones are taken."""
        ends, self._ends = self._ends, set()
        for end in ends:
            with contextlib.suppress(OSError):
                end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            end.transport.abort()
        return len(ends)

    def hold(self) -> None:
        """Let nothing pass until `release`: whoever sends does not notice."""
        self.held = 0
        self._open.clear()

    def release(self) -> None:
        """Let pass what was held, and all that follows."""
        self._open.set()

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        self.cut()
        for task in self._carrying:
            task.cancel()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            onward_reader, onward = await asyncio.open_connection(*self.target.split(":"))
        except OSError:
            writer.transport.abort()
            return
        self._ends |= {writer, onward}
        for source, sink in ((reader, onward), (onward_reader, writer)):
            task = asyncio.create_task(self._carry(source, sink))
            self._carrying.add(task)
            task.add_done_callback(self._carrying.discard)

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while piece := await source.read(CHUNK):
                if not self._open.is_set():
                    self.held += len(piece)
                    await self._open.wait()
                if self.delay:
                    await asyncio.sleep(self.delay)
                sink.write(piece)
                await sink.drain()
        except OSError:
            pass
        finally:
            self._ends.discard(sink)
            sink.close()
