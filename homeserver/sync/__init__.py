"""What a client has not seen yet.

/sync           engine; of a room: room_section, timeline, state_delta; filter, stored_filters,
                federation_format
sliding sync    the folder sliding
before /sync    event_stream
long-polls      long_polls (who waits), waking (whom an entry wakes), served_members
to both         device_lists, to_device
"""
