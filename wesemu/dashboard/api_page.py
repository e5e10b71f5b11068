"""The page of the APIs: their documents, addresses and operations."""

from aiohttp import web

from wesemu.api.connections import base_url
from wesemu.api.fault_injection import BUCKET_OPERATIONS, CONTROL, OPERATIONS, operation_name
from wesemu.api.wes.models import PREFIX, VERSIONS
from wesemu.dashboard.pages import WebPage
from wesemu.runs.model import JsonObject, JsonValue

_AGS = "/gs/"


def page(request: web.Request) -> WebPage:
    """The operations are the routes of the application, so none is missing."""
    content: JsonObject = {
        "url": base_url(request),
        "wes": {"prefix": PREFIX, "operations": _operations(request, f"{PREFIX}/")},
        "versions": [
            {"name": version.name, "prefix": version.prefix} for version in VERSIONS.values()
        ],
        "ags": {"operations": _operations(request, _AGS)},
        "oss": {"operations": [*BUCKET_OPERATIONS]},
        "control": {"operations": _operations(request, CONTROL)},
    }
    return WebPage("api.html", "API", content)


def _operations(request: web.Request, prefix: str) -> list[JsonValue]:
    """Return name, method and path of the routes below `prefix`."""
    found: list[JsonValue] = []
    for route in request.app.router.routes():
        path = "" if route.resource is None else route.resource.canonical
        if path.startswith(prefix) and route.method != "HEAD":
            name = operation_name(route.method, path)
            named = name if name in OPERATIONS else ""
            found.append({"name": named, "method": route.method, "path": path})
    return found
