"""Searching through events: what a word is, what of an event is found, and who may find it."""
