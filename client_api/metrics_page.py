"""GET /metrics, for Prometheus; on a listener of its own, because what it tells is for administrators."""

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from rest.routes import Application


def metrics_application(registry: CollectorRegistry) -> Application:
    async def metrics(request: web.Request) -> web.Response:
        if request.path != "/metrics" or request.method not in ("GET", "HEAD"):
            return web.Response(status=404)
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    return Application(metrics)
