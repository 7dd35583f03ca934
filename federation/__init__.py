"""Server to server: how other homeservers are found, talked to and believed (spec: server-server).

routes     http (how they are declared); by sections of the specification: handshakes, invites,
           transactions, third_party_invites, events, queries, public_rooms, spaces, user_keys, media,
           key_server, openid, version
asking     client → transport → discovery (well_known) → homeserver.egress; multipart, errors; whom to leave
           alone: backoff, allowed. For what: media_servers, policy_servers, profile_servers,
           user_key_servers, foreign_rooms, remote_rooms (with templates), inviting, backfill,
           missing_events, partial_rooms
asked      limited_authenticator → authenticator (request_auth) → key_ring
taking     events: gate → incoming; what is not kept: edus, received_messages; received_invites; who comes
           in: resident
sending    sender → destination, catching_up; outgoing (what is sent), told_devices, server_rooms (to whom);
           destinations is what administrators see of it
keys       own_keys, notary: what this server says of keys; key_ring, published_keys: what others say

Put together in other_servers (asking), outbound (sending) and federation (all the rest).
"""
