"""What holds for tests of all kinds."""

import asyncio
import gc
import logging
from collections.abc import Callable, Iterator, Mapping

import pytest
import structlog
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


@pytest.fixture
def logging_as_it_was() -> Iterator[None]:
    """How a test configures logging ends with it: drivers that say all that they do are slow."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers
    yield
    root.setLevel(level)
    root.handlers = handlers
    structlog.reset_defaults()
