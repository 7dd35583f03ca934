"""How the log's entries reach those who act on them: consumers with durable cursors.

the bus         bus (the port), in_process, the folder kafka, opening (which of them); to_others (messages)
replicas        replica (what one follows and owns), relay (puts the log on the bus)
consumers       consumer; what they do is in homeserver.consumers
"""
