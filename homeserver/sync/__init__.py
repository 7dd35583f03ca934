"""What a client has not seen yet: since-tokens, /sync, sliding sync and the waking of long-polls."""
