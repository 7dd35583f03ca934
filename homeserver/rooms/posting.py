"""Sending events of this server into rooms that it is in."""

from homeserver.errors import unavailable
from homeserver.rooms.authoring import Author, Decide, RoomProposal, Transaction
from homeserver.rooms.room import Room
from homeserver.rooms.rooms import Rooms

ATTEMPTS = 10
"""How often events are made anew because others were faster than the room's policy server."""


async def post(
    rooms: Rooms, author: Author, room: Room, decide: Decide, transaction: Transaction | None = None
) -> list[str]:
    """Append what `decide` wants to send; the event ids, in order.

    Where the room has a policy server, it has to sign them first. Raises MatrixError, also what that says.
    """
    proposal = RoomProposal(author, room, decide, transaction)
    event_ids = await rooms.submit(room, proposal)
    if not proposal.unsigned:
        return event_ids
    async with author.policy.turn(room.room_id):
        for _ in range(ATTEMPTS):
            event_ids = await rooms.submit(room, proposal)
            if not proposal.unsigned:
                return event_ids
            unsigned = proposal.unsigned
            proposal.signed[unsigned.event_id] = await author.policy.signed(room, room.head, unsigned)
    raise unavailable("The room is too busy")
