"""What is kept: bytes on disk for each event, the start with many events stored, memory for known rooms."""

from bench.matrix import text
from bench.scenarios.scenario import Scenario

_ROOMS = 4
_USERS = 4


class Storage(Scenario):
    name = "storage"
    about = "bytes on disk per message and per membership change; start-up with the data"
    once = True
    needs_restart = True

    async def prepare(self) -> None:
        self.users = await self.load.accounts(_USERS)
        self.rooms = [await self.load.room(self.users) for _ in range(_ROOMS)]
        self.joiners = await self.load.accounts(self.sizes.changes // 2)

    async def measure(self) -> None:
        load, fill, changes = self.load, self.sizes.fill, len(self.joiners) * 2
        empty = await load.restart()

        async def send(number: int) -> None:
            room = self.rooms[number % _ROOMS]
            await load.call(load.api.send(self.users[number % _USERS], room, load.tag, number))

        await load.each(range(fill), send)
        filled = await load.restart()
        room = self.rooms[0]
        await load.each(self.joiners, lambda user: load.call(load.api.join(user, room)))
        await load.each(self.joiners, lambda user: load.call(load.api.leave(user, room)))
        changed = await load.restart()
        load.figure("disk per plain message", "bytes", (filled.disk_bytes - empty.disk_bytes) / fill)
        load.figure("disk per membership change", "bytes", (changed.disk_bytes - filled.disk_bytes) / changes)
        load.figure(f"start with the run's events and {fill} more", "s", changed.seconds)
        load.figure("CPU of that start", "s", changed.cpu_seconds)
        load.figure("memory after that start", "MiB", changed.rss_mib)


class Memory(Scenario):
    """Each room has its creator alone; they are as many as a server knows of, not as many as are in use."""

    name = "memory"
    about = "memory with many known rooms (only with --full)"
    once = True
    needs_restart = True
    only_full = True

    async def prepare(self) -> None:
        self.users = await self.load.accounts(_USERS)

    async def measure(self) -> None:
        load, count = self.load, self.sizes.known_rooms
        fresh = await load.restart()
        await load.quiet()
        before = load.rss_bytes()

        async def create(number: int) -> None:
            text(await load.call(load.api.create_room(self.users[number % _USERS])), "room_id", "!")

        await load.each(range(count), create)
        await load.quiet()
        load.figure(
            f"memory per room after {count} were made", "KiB", (load.rss_bytes() - before) / 1024 / count
        )
        known = await load.restart()
        more = (known.rss_mib - fresh.rss_mib) * 1024 / count
        load.figure(f"memory per room after a start with {count} more", "KiB", more)
