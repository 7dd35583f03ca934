"""What is done behind the log, each with a cursor of its own (see bus/consumer).

filed           search (events), user_directory (users, by user_directory_words)
removed         redactions (what was redacted), superseded (receipts and the like with newer ones)
passed on       device_announcements (changes of devices), successors (to the room after an upgrade)
"""
