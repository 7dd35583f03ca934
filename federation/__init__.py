"""Server to server: how other homeservers are found, talked to and believed (spec: server-server).

outgoing   client → discovery (well_known) → homeserver.egress
incoming   authenticator (request_auth) → key_ring
keys       own_keys, notary: what this server says of keys; key_ring, server_keys: what others say
"""
