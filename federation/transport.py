"""One request to one server: found by its name, tried wherever it listens."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import NoReturn

from yarl import URL

from federation.discovery import Discovery
from federation.errors import TooLongAnswer, Unreachable
from homeserver.egress.client import Answer, Egress, Incoming, Interrupted, NotConnected, TooLarge


class Transport:
    """Carries requests, and knows nothing of what they say."""

    def __init__(self, discovery: Discovery, egress: Egress) -> None:
        self._discovery = discovery
        self._egress = egress

    async def exchange(
        self,
        destination: str,
        method: str,
        target: str,
        *,
        seconds: float,
        max_bytes: int,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Answer:
        """The whole answer to a request; see `open`."""
        async with self.open(
            destination, method, target, seconds=seconds, headers=headers, body=body
        ) as incoming:
            read = b"".join([piece async for piece in incoming.pieces(max_bytes)])
            return Answer(incoming.status, incoming.headers, read)

    @asynccontextmanager
    async def open(
        self,
        destination: str,
        method: str,
        target: str,
        *,
        seconds: float,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> AsyncIterator[Incoming]:
        """The answer to a request, whatever its status, to be read within the context.

        Discovery, all attempts and the reading have to fit in `seconds`. `destination` is a checked server
        name, `target` the path with the query, escaped. Raises Unreachable and InvalidAnswer, also while the
        answer is read.
        """

        def unreachable(reason: str) -> NoReturn:
            self._discovery.forget(destination)
            raise Unreachable(destination, reason)

        try:
            async with asyncio.timeout(seconds), AsyncExitStack() as opened:
                route = await self._discovery.find(destination)
                problem = "its name leads nowhere"
                for host, port in route.targets:
                    try:
                        incoming = await opened.enter_async_context(
                            self._egress.open(
                                method,
                                _url(host, port, target),
                                seconds=seconds,
                                headers={**(headers or {}), "Host": route.host_header},
                                body=body,
                                tls_name=route.tls_name,
                            )
                        )
                    except NotConnected as error:
                        problem = str(error)
                    else:
                        yield incoming
                        return
        except TimeoutError:
            unreachable(f"no answer within {seconds} s")
        except Interrupted as error:
            unreachable(str(error))
        except TooLarge as error:
            raise TooLongAnswer(destination, str(error)) from error
        unreachable(problem)

    async def close(self) -> None:
        await self._discovery.close()


def _url(host: str, port: int, target: str) -> URL:
    return URL(f"https://{f'[{host}]' if ':' in host else host}:{port}{target}", encoded=True)
