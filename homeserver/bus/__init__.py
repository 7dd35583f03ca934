"""How the log's entries reach those who act on them: consumers with durable cursors."""
