"""Simplified sliding sync (MSC4186): the rooms that a client looks at, the most recent first.

`request` is what a client asks for, `connection` what one was sent already, `lists` which rooms it
looks at, `rooms` and `extensions` the parts of an answer, `engine` the poll that joins them.
"""
