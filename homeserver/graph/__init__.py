"""Rooms as graphs: events of other servers, which need not follow upon all that is there.

The log has a room's events in one order, and its state as a timeline. An event that another server made
follows upon what that server knew; where this is not the whole room, the event forks it. What is particular
about such events is here; all the rest of the server knows rooms by their log alone.

taking          receiving (the checks), onward (many at once), merging (of extremities), redacting,
                early_redactions
knowing         events (by id), states (before and after events), outliers
coming in       arrival, outside (before that), learning (members who come later), past (history, gaps),
                under_way (what other servers have yet to answer)
telling         told
"""
