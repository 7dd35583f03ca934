"""What is known of files that users shared; the bytes lie in the media folder by their hash."""

from storage.collection import CollectionSpec, Index, Record


class Media(Record, frozen=True):
    """One media id. `digest` is the hex SHA-256 of the content, None while the upload is awaited."""

    media_id: str
    user_id: str
    created_ts: int
    expires_ts: int | None = None
    """Until when a reserved id waits for its content."""
    digest: str | None = None
    size: int = 0
    content_type: str = "application/octet-stream"
    filename: str | None = None


MEDIA = CollectionSpec(
    "media",
    Media,
    ("media_id",),
    (Index("by_digest", ("digest",)), Index("pending", ("user_id", "expires_ts"))),
)


class MediaCopy(Record, frozen=True):
    """A copy of another server's file. `digest` is the hex SHA-256 of the content."""

    uri: str
    """`mxc://…`"""
    digest: str
    size: int
    content_type: str
    seen_ts: int
    """When somebody asked for it last, to an hour."""
    filename: str | None = None


MEDIA_COPIES = CollectionSpec(
    "media_copies",
    MediaCopy,
    ("uri",),
    (Index("by_digest", ("digest",)), Index("by_seen", ("seen_ts",))),
)

SPECS = (MEDIA, MEDIA_COPIES)
