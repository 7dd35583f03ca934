"""Who is online (spec: client-server "Presence").

`presence` decides what is told of whom, `user_presence` what one user's devices add up to, `reports` brings
what each replica knows of devices to the others, `stream` has what clients are told, in its order, and
`told_presence` tells other servers.
"""
