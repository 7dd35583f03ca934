"""Real client libraries against a running server: what their users see, end to end encrypted."""
