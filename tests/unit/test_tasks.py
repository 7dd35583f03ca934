"""Tasks end when they are told to."""

import asyncio

from homeserver.tasks import end


async def test_a_task_that_takes_its_cancellation_for_something_else_is_told_again() -> None:
    lost = 0

    async def stubborn() -> None:
        nonlocal lost
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                if lost == 2:
                    raise
                lost += 1

    async def failing() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            raise ConnectionError("lost")

    tasks = [asyncio.create_task(work) for work in (stubborn(), failing(), asyncio.sleep(0))]
    await asyncio.sleep(0.01)
    async with asyncio.timeout(10):
        await end(tasks)
    assert lost == 2
    assert [task.cancelled() for task in tasks] == [True, False, False]
    assert isinstance(tasks[1].exception(), ConnectionError)
