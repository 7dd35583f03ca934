"""What a room is, and what can be done in it.

in memory       room, room_event, fragments (worked out for readers); rooms (those in use), outline (what is
                left of those put out), loading, stored_events, event_entry, event_meta
making events   authoring (build, check, sign), policy (policy servers), posting (append them)
what is done    new_room, creation, membership, sending, upgrade, aliases, directory, receipts, ephemeral
                (typing), third_party_invites, guests, restricted (joins), delayed_events, due_events
reading         access (who may), visibility (which events), history, state_reader, timestamp_to_event,
                past_state, reading_order, relations, threads, bundling, event_filter, rendering, redaction,
                broken_rooms
from outside    summary, spaces, stripped, heroes
other servers   servers, told_servers, told_ephemeral; ports: elsewhere, earlier, foreign_rooms
"""
