"""Waiting for what happens behind the scenes."""

import asyncio
from collections.abc import Callable
from inspect import isawaitable
from typing import Any


async def until(condition: Callable[[], Any], what: str = "it came true", *, seconds: float = 10.0) -> Any:
    """What the condition says, or gives when awaited, once it is something; fails if it never is."""
    try:
        async with asyncio.timeout(seconds):
            while True:
                seen = condition()
                if isawaitable(seen):
                    seen = await seen
                if seen:
                    return seen
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"not within {seconds:.0f} s: {what}") from None
