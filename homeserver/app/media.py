"""Files that are uploaded here, and copies of those of other servers."""

from pathlib import Path

from client_api.media import MediaRoutes
from federation.media_servers import RemoteMediaServers
from homeserver.app.ground import Ground
from homeserver.media.files import MediaFiles
from homeserver.media.remote import RemoteMedia
from homeserver.media.repository import MediaRepository
from homeserver.media.servers import MediaServers, NoMediaServers
from homeserver.media.thumbnails import Thumbnails
from rest.routes import Routes
from storage.records import media as media_records


class Media:
    """The media repository."""

    def __init__(self, ground: Ground) -> None:
        config, collection, others = ground.config, ground.collection, ground.other_servers
        servers: MediaServers = NoMediaServers()
        if others is not None:
            servers = RemoteMediaServers(others.client, others.egress)
        folder = Path(config.media.path)
        self.remote = RemoteMedia(
            collection(media_records.MEDIA_COPIES),
            MediaFiles(folder / "remote"),
            servers,
            ground.limits,
            ground.to_others,
            ground.now,
            max_size=config.limits.max_upload_size,
            max_total=config.media.remote_cache,
        )
        self.repository = MediaRepository(
            collection(media_records.MEDIA),
            MediaFiles(folder),
            self.remote,
            ground.to_others,
            server_name=ground.name,
            now=ground.now,
            max_upload_size=config.limits.max_upload_size,
            unused_expires_after=config.media.unused_expires_after,
            max_pending=config.media.max_pending_uploads,
        )
        self.thumbnails = Thumbnails(
            sizes=config.media.thumbnail_sizes,
            dynamic=config.media.dynamic_thumbnails,
            max_pixels=config.media.max_pixels,
        )
        self.routes: list[Routes] = [MediaRoutes(self.repository, self.thumbnails)]
