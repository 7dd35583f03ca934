"""Delivery of messages to clients that wait in /sync, and what thousands of idle ones cost."""

import asyncio
import time

from bench.scenarios.scenario import Scenario

_MOST_MESSAGES = 50
_FEWEST_MESSAGES = 3
_BURST = 20
_HANG_UP_SECONDS = 1.0


class Fanout(Scenario):
    name = "fanout"
    about = "delivery of a message to 50 and 200 long-polling clients, and of a burst"

    async def prepare(self) -> None:
        for size in self.sizes.fanout:
            await self.crowds.get(self.load, size)

    async def measure(self) -> None:
        for size in self.sizes.fanout:
            crowd = await self.crowds.get(self.load, size)
            await crowd.open(hold_seconds=60)
            try:
                async with self.load.section(f"deliver to {size} clients") as section:
                    begun = time.perf_counter()
                    for sent in range(_MOST_MESSAGES):
                        late = time.perf_counter() - begun > self.sizes.seconds
                        if late and sent >= _FEWEST_MESSAGES:
                            break
                        if not await crowd.deliver(1, section.add):
                            return
                if size == self.sizes.fanout[0]:
                    async with self.load.section(f"deliver to {size}, burst of {_BURST}") as section:
                        await crowd.deliver(_BURST, section.add)
            finally:
                crowd.close()


class Polls(Scenario):
    """Measured once, on a freshly started server: memory that was freed before would hide the polls' own."""

    name = "polls"
    about = "many idle long-polls: memory, CPU, one message to all, and all hang up"
    once = True

    async def prepare(self) -> None:
        """Brings the users and the room into memory before the polls are counted."""
        load, count = self.load, self.sizes.polls
        crowd = await self.crowds.get(load, count)
        await crowd.catch_up()
        if load.can_restart:
            await load.restart()
        await crowd.send()
        await load.quiet()
        cpu = load.cpu_seconds()
        await crowd.catch_up()
        if load.can_restart:
            cost = (load.cpu_seconds() - cpu) / count * 1000
            load.figure(f"CPU of the first news after a restart, {count} users", "ms/user", cost)

    async def measure(self) -> None:
        load, count = self.load, self.sizes.polls
        crowd = await self.crowds.get(load, count)
        await load.quiet()
        load.hang_up()
        before = load.rss_bytes()
        await crowd.open(self.sizes.hold_seconds + 120)
        try:
            held = load.rss_bytes()
            load.figure(f"memory of {count} idle polls", "KiB/poll", (held - before) / 1024 / count)
            cpu = load.cpu_seconds()
            await asyncio.sleep(self.sizes.hold_seconds)
            share = (load.cpu_seconds() - cpu) / self.sizes.hold_seconds
            load.figure(f"CPU while {count} polls wait", "% of a core", share * 100)
            async with load.section(f"wake {count} idle polls") as section:
                begun = time.perf_counter()
                await crowd.deliver(1, section.add)
                load.figure(f"one message to all {count} polls", "s", time.perf_counter() - begun)
        finally:
            crowd.close()
        # The allocator need not give back what is free; but who comes next must find it so.
        await asyncio.sleep(_HANG_UP_SECONDS)
        await load.quiet()
        kept = (load.rss_bytes() - before) / 2**20
        load.figure(f"memory kept after {count} polls hung up", "MiB", kept)
        await crowd.open(self.sizes.hold_seconds + 120)
        load.figure(f"memory that {count} polls add after those", "MiB", (load.rss_bytes() - held) / 2**20)
        crowd.close()
