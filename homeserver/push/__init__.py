"""What users are notified of: their push rules, unread counts, notifications and pushers."""
