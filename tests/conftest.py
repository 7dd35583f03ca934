"""What holds for tests of all kinds."""

import asyncio
import gc
from collections.abc import Callable, Mapping

import uvloop

pytest_plugins = ["tests.hangs", "tests.real_parts.kafka"]


def pytest_collection_finish() -> None:
    """Spare the collector what stays for the whole run, and let it look at the rest less often: servers
    come and go by the thousand."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Tests run on the event loop that servers run on."""
    return {"uvloop": uvloop.new_event_loop}
