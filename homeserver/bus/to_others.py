"""Messages for the other replicas about what was done here already: a count that changed, a file that came.

The replica that tells does not hear its own messages, and where there are no others nothing is told at all.
What must have one order and one position for everybody is told over the `Bus` itself.
"""

from collections.abc import Callable
from secrets import token_hex

from homeserver.bus.bus import Bus

OnWord = Callable[[bytes], None]
"""Called with the body of another replica's message."""


class ToOthers:
    """One replica's voice, and its ear for the others."""

    def __init__(self, bus: Bus) -> None:
        self.id = token_hex(4)
        """What this run of this replica is called."""
        self._bus = bus
        self._mark = self.id.encode()

    @property
    def shared(self) -> bool:
        """Whether there may be anybody to hear."""
        return self._bus.shared

    def subscribe(self, kind: str, on_word: OnWord) -> None:
        """Have the others' messages of this kind handed over; one subscriber for each kind."""

        def on_message(position: int, body: bytes) -> None:
            if not body.startswith(self._mark):
                on_word(body[len(self._mark) :])

        self._bus.subscribe(kind, on_message)

    def tell(self, kind: str, body: bytes) -> None:
        if self._bus.shared:
            self._bus.tell(kind, self._mark + body)
