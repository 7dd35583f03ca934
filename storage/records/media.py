"""What is known of the files that users uploaded; the bytes lie in the media folder by their hash."""

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

SPECS = (MEDIA,)
