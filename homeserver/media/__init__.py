"""The content repository: files that users share.

repository (uploads), remote (copies of other servers' files), servers (the port to those), thumbnails,
files (on disk), media_file (as it is shown)
"""
