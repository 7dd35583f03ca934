"""Files of the content repository, as both APIs are asked for them and describe them.

spec: client-server "Content repository", server-server "Content Repository"
"""

from urllib.parse import quote

from rest.call import Call

DEFAULT_WAIT_MS = 20_000
MAX_SIDE = 8192

INLINE = frozenset(
    {
        "text/css",
        "text/plain",
        "text/csv",
        "application/json",
        "application/ld+json",
        "image/jpeg",
        "image/gif",
        "image/png",
        "image/apng",
        "image/webp",
        "image/avif",
        "video/mp4",
        "video/webm",
        "video/ogg",
        "video/quicktime",
        "audio/mp4",
        "audio/webm",
        "audio/aac",
        "audio/mpeg",
        "audio/ogg",
        "audio/wave",
        "audio/wav",
        "audio/x-wav",
        "audio/x-pn-wav",
        "audio/flac",
        "audio/x-flac",
    }
)
"""Types that may be shown in place (spec: "Serving inline content"); all others are attachments."""


def headers_of_file(content_type: str, filename: str | None) -> dict[str, str]:
    """What a file is and whether to show it in place, for whatever was said of it when it was uploaded."""
    kind = content_type.partition(";")[0].strip().lower()
    disposition = "inline" if kind in INLINE else "attachment"
    if filename:
        disposition += f"; filename*=utf-8''{quote(filename, safe='')}"
    shown_type = content_type if _is_header_safe(content_type) else "application/octet-stream"
    return {"Content-Type": shown_type, "Content-Disposition": disposition}


def wait_of(call: Call) -> int:
    """How many ms to wait for a file that is still being uploaded. Raises 400."""
    return call.int_query("timeout_ms", DEFAULT_WAIT_MS)


def thumbnail_wanted(call: Call) -> tuple[int, int, str]:
    """(width, height, method) of the thumbnail that is asked for. Raises 400."""
    width = call.int_query("width", least=1, most=MAX_SIDE)
    height = call.int_query("height", least=1, most=MAX_SIDE)
    return width, height, call.choice_query("method", "scale", "crop")


def _is_header_safe(content_type: str) -> bool:
    return content_type.isascii() and content_type.isprintable() and "/" in content_type
