"""Paths that clients build carelessly: `//ga4gh/wes/v1/runs/` is `/ga4gh/wes/v1/runs`."""

import re
from typing import Any

from aiohttp import web
from yarl import URL

_SLASHES = re.compile(r"/{2,}")


def merge_slashes(path: str) -> str:
    """Without doubled slashes and without one at the end."""
    return _SLASHES.sub("/", path).rstrip("/") or "/"


class MergedSlashes(web.AbstractResource):
    """Resolves a careless path below `prefix` as the path that was meant, in place.

    A redirect would do for a GET only: clients drop the body or the credentials of others.
    """

    def __init__(self, router: web.UrlDispatcher, prefixes: tuple[str, ...]) -> None:
        super().__init__()
        self._router = router
        self._prefixes = prefixes

    @property
    def canonical(self) -> str:
        return "/{careless}"

    async def resolve(
        self, request: web.Request
    ) -> tuple[web.UrlMappingMatchInfo | None, set[str]]:
        path = request.rel_url.raw_path
        merged = merge_slashes(path)
        if merged == path or not merged.startswith(self._prefixes):
            return None, set()
        meant = request.clone(rel_url=URL.build(path=merged, encoded=True))
        match = await self._router.resolve(meant)
        if isinstance(match.http_exception, web.HTTPMethodNotAllowed):
            return None, set(match.http_exception.allowed_methods)
        return (None, set()) if match.http_exception else (match, set())

    def url_for(self, **kwargs: str) -> URL:
        raise NotImplementedError("a careless path has no address of its own")

    def add_prefix(self, prefix: str) -> None:
        self._prefixes = tuple(prefix + own for own in self._prefixes)

    def get_info(self) -> Any:
        return {"formatter": self.canonical}

    def raw_match(self, path: str) -> bool:
        return False

    def __len__(self) -> int:
        return 0

    def __iter__(self) -> Any:
        return iter(())


class MergedSlashesDef(web.AbstractRouteDef):
    """Adds `MergedSlashes` for these prefixes, as one more line of a route table."""

    def __init__(self, *prefixes: str) -> None:
        self._prefixes = prefixes

    def register(self, router: web.UrlDispatcher) -> list[web.AbstractRoute]:
        router.register_resource(MergedSlashes(router, self._prefixes))
        return []
