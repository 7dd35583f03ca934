"""The homeserver itself: rooms, users, sync, and what joins them. It knows no HTTP and no database."""

__version__ = "0.1.0"
