"""`/_wesemu/prune`: removes runs that ended long ago."""

from datetime import timedelta

from aiohttp import web

from wesemu.api.control import models
from wesemu.api.control.bodies import answer, read
from wesemu.errors import InvalidRequest
from wesemu.runs.retention import Retention


class PruneHandlers:
    """Prunes by request; `retention` prunes by itself, too."""

    def __init__(self, retention: Retention) -> None:
        self._retention = retention

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/_wesemu/prune", self.prune)]

    async def prune(self, request: web.Request) -> web.Response:
        """The number of runs and of bytes that were freed, or would be in a dry run."""
        body = await read(request, models.Prune)
        try:
            age = timedelta(days=body.older_than_days)
        except OverflowError:
            raise InvalidRequest(
                "older_than_days: is more than a date can be", field="older_than_days"
            ) from None
        pruned = await self._retention.prune(
            age, keep_outputs=body.keep_outputs, dry_run=body.dry_run
        )
        return answer(models.PruneReport(runs=pruned.runs, freed_bytes=pruned.freed_bytes))
