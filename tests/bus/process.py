"""A member of the bus as a process of its own, so that it can be killed: `python -m tests.bus.process …`."""

import asyncio
import os
import sys

from tests.bus.members import Member, options


async def main(bootstrap: str, topic_prefix: str, name: str) -> None:
    """Be a member until killed; orphaned, it ends by itself."""
    member = Member(options(bootstrap, topic_prefix), name)
    await member.bus.start(member)
    parent = os.getppid()
    while os.getppid() == parent:
        await asyncio.sleep(0.2)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
