"""The content repository: files that users share, and thumbnails of pictures."""
