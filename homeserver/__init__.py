"""The homeserver itself: rooms, users, sync, and what joins them. It knows no HTTP and no database.

in folders      protocol (the rule books); rooms, graph (events of other servers), users, presence, push,
                sync, search, media, e2ee, identity (servers); consumers (behind the log), bus (to replicas),
                egress (to others); app (puts all together), config, cli, doctor
writing         shard_writer (extends the log), write_behind (records that may be late); since_tokens (how far
                a client has read)
for all         errors, rate_limits, clock, single_flight, remembered (answers of the store), tasks
other servers   outbox (what they are told apart from rooms), destinations (as administrators see them)
keys            key_file, server_key (which one signs), shared_secret (registration), tls
operation       logs, metrics, histogram; reports (of content, by users)
"""

__version__ = "0.1.0"
