"""What a room is and what can be done in it: `room` is the aggregate in memory, the other modules act on it."""
