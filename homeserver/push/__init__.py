"""What users are notified of.

rules           rules (of all users, compiled), settings (reading and editing one's own); verdicts (on an
                event)
counts          unread, unread_tallies
what is told    notifications, pushers
"""
