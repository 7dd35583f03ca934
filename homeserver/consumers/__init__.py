"""What is done behind the log, each with a cursor of its own (see bus/consumer)."""
