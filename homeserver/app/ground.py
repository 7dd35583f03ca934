"""What all parts of a server stand on: rooms and users, other replicas and servers, who follows the log."""

from collections.abc import Callable, Sequence

from client_api.replicas import OtherReplicas, replica_token
from federation.other_servers import OtherServers
from federation.outbound import Outbound
from homeserver.bus.bus import Bus
from homeserver.bus.consumer import Consumer, Handle, HandleBatch, Progress
from homeserver.bus.in_process import InProcessBus
from homeserver.bus.replica import Replica
from homeserver.bus.to_others import ToOthers
from homeserver.clock import Clock
from homeserver.config import Config
from homeserver.egress.client import Egress
from homeserver.egress.names import Names
from homeserver.key_file import load_or_create
from homeserver.outbox import NoOutbox, Outbox
from homeserver.rate_limits import RateLimits, SharedLimits
from homeserver.rooms.ephemeral import EphemeralClock
from homeserver.rooms.rooms import Rooms
from homeserver.sync.long_polls import LongPolls
from homeserver.sync.served_members import ServedMembers
from homeserver.sync.waking import Waking
from homeserver.users.shared_rooms import SharedRooms
from homeserver.users.users import Users
from storage.log import Entry
from storage.records import cursors as cursor_records
from storage.records import remote_keys as remote_key_records
from storage.records.server_key import RetiredKey
from storage.store import Store


class Ground:
    """The rooms, the users, and what is heard of elsewhere."""

    def __init__(
        self,
        config: Config,
        store: Store,
        bus: Bus | None,
        retired_keys: Sequence[RetiredKey],
        now: Clock,
    ) -> None:
        self.config = config
        self.store = store
        self.now = now
        self.name = config.server_name
        self.shards = store.info.shards
        self.epoch = store.info.epoch
        self.collection = store.collection
        self.bus = bus if bus is not None else InProcessBus(self.shards, now)
        self.replica = Replica(self.bus)
        self.signing_key = load_or_create(config.signing_key_path)
        self.others = OtherReplicas(self.replica, self.shards, replica_token(self.signing_key))
        self.to_others = ToOthers(self.bus)
        self.ephemeral = EphemeralClock()
        self.limits = RateLimits(config.rate_limits)
        self.shared_limits = SharedLimits(self.limits, self.to_others)
        self.consumers: list[Consumer] = []
        self.user_consumers: list[Consumer] = []
        self.rooms = Rooms(store.log, self.shards, now, memory_budget=config.limits.room_cache)
        self.users = Users(
            store.log,
            self.shards,
            now,
            server_name=self.name,
            max_users=config.limits.user_cache // 4096,
        )
        self.long_polls = LongPolls()
        served_members = ServedMembers(self.users, self.long_polls)
        self.users.on_loaded.append(served_members.loaded)
        self.shared_rooms = SharedRooms(self.rooms, self.users)
        self.waking = Waking(self.rooms, self.users, self.long_polls, served_members, self.shared_rooms)
        names = Names()
        self.egress = Egress(config.egress, names)
        self.other_servers: OtherServers | None = None
        self.outbound: Outbound | None = None
        if config.federation.enabled:
            remote_keys = self.collection(remote_key_records.REMOTE_KEYS)
            self.other_servers = OtherServers(
                config, self.signing_key, retired_keys, remote_keys, names, self.egress, now
            )
            self.outbound = self._outbound(self.other_servers)
        self.outbox: Outbox = self.outbound.sender if self.outbound is not None else NoOutbox()

    def own_room_shards(self) -> list[int]:
        """Those that belong to this replica now."""
        return [shard for shard in self.shards.room_shards() if self.replica.owns(shard)]

    def _outbound(self, other_servers: OtherServers) -> Outbound:
        """What tells other servers of what happens here."""
        run = f"{self.to_others.id}{self.now():x}"
        outbound = Outbound(
            self.name, run, self.store, self.rooms, self.users, other_servers, self.replica.owns, self.now
        )
        sender, kept = outbound.sender, outbound.server_rooms
        self.consume(self.rooms, "server_rooms", kept.wants, kept.handle)
        self.consume(self.rooms, "sender", sender.wants, handle_batch=sender.handle, progress=sender)
        self.consume(
            self.users, "sender", sender.wants_of_users, handle_batch=sender.handle_of_users, progress=sender
        )
        return outbound

    def consume(
        self,
        shards: Rooms | Users,
        name: str,
        wants: Callable[[Entry], bool],
        handle: Handle | None = None,
        *,
        handle_batch: HandleBatch | None = None,
        progress: Progress | None = None,
        gathers: bool = False,
    ) -> Consumer:
        """A consumer of the room or the user shards, fed from now on and started with the server."""
        consumer = Consumer(
            name,
            self.store.log,
            self.collection(cursor_records.CURSORS),
            wants=wants,
            handle=handle,
            handle_batch=handle_batch,
            ask_owner=self.others.handled,
            progress=progress,
            gathers=gathers,
        )
        shards.feed(consumer.on_entries)
        (self.consumers if shards is self.rooms else self.user_consumers).append(consumer)
        return consumer
