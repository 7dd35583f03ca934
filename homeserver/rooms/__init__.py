"""What a room is (`room`, the aggregate in memory) and what can be done in it (the other modules)."""
