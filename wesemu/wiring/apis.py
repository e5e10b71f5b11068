"""The dialects over the core, in one application."""

import asyncio
import hashlib
from collections.abc import Sequence
from datetime import datetime

from aiohttp import web

from wesemu import __version__
from wesemu.api.ags.authenticator import Authenticator
from wesemu.api.ags.dialect import AgsDialect
from wesemu.api.ags.routes import AgsHandlers
from wesemu.api.control.access import Access
from wesemu.api.control.dialect import ControlDialect
from wesemu.api.dialect import Dialect
from wesemu.api.middleware import around
from wesemu.api.oss.authenticator import OssAuthenticator
from wesemu.api.oss.dialect import OssDialect, door
from wesemu.api.oss.routes import OssHandlers
from wesemu.api.reception import Reception
from wesemu.api.visitors import Visitors, names_loopback
from wesemu.api.wes.auth import TokenAuthenticator
from wesemu.api.wes.dialect import WesDialect
from wesemu.api.wes.facts import EngineParameter, ServiceFacts
from wesemu.api.wes.routes import routes as wes_routes
from wesemu.callbacks import Callbacks
from wesemu.clock import WallClock
from wesemu.nodes import Node
from wesemu.objects.services import ObjectServices
from wesemu.runs.ports import Engine
from wesemu.settings import Settings
from wesemu.wiring.core import Core
from wesemu.workflows.params import PARAMS


async def build(
    settings: Settings,
    core: Core,
    objects: ObjectServices,
    callbacks: Callbacks,
    reception: Reception,
) -> web.Application:
    """WES, AGS and the bucket door; the controls come on top.

    Signatures are checked on the wall clock. Credentials of one API close the others, too.
    """
    keys, tokens = settings.auth.ags_keys, settings.auth.tokens
    dialects: list[Dialect] = [
        WesDialect(TokenAuthenticator(tokens, guarded=bool(keys))),
        AgsDialect(Authenticator(keys, WallClock(), guarded=bool(tokens))),
        ControlDialect(Access(settings.auth.admin_token)),
    ]
    oss = OssDialect(
        OssAuthenticator(keys, WallClock(), guarded=bool(tokens)), objects.shelves, dialects
    )
    visitors = _visitors(settings)
    inner = around([oss], core.ids, reception, visitors)
    bucket_door = door(oss, inner, OssHandlers(objects).handle)
    app = web.Application(
        middlewares=[bucket_door, around(dialects, core.ids, reception, visitors)]
    )
    secret = await asyncio.to_thread(core.data.secret)
    created = await asyncio.to_thread(core.data.created)
    app.add_routes(
        wes_routes(
            core.runs,
            _facts(core.engines, core.node, settings.node.default, created),
            page_key=secret,
            version=settings.wes.version,
            check_callback=callbacks.check,
        )
    )
    app.add_routes(_ags(core, secret).routes())
    return app


def _visitors(settings: Settings) -> Visitors:
    is_open = not (settings.auth.ags_keys or settings.auth.tokens)
    return Visitors(
        is_open=is_open, hosts=settings.hosts if names_loopback(settings.host) else None
    )


def _ags(core: Core, secret: bytes) -> AgsHandlers:
    """The account and cluster that jobs are said to belong to are this data directory's own."""
    account = hashlib.sha256(secret).hexdigest()
    return AgsHandlers(
        core.runs,
        core.keeper.clock,
        namespace=str(int(account, 16))[:16],
        cluster_id=f"c{account[:32]}",
    )


def _facts(engines: Sequence[Engine], node: Node, place: str, created: datetime) -> ServiceFacts:
    types = {
        kind: versions for engine in engines for kind, versions in engine.workflow_types.items()
    }
    return ServiceFacts(
        version=__version__,
        created=created,
        workflow_types=types,
        engines={engine.name: engine.version for engine in engines},
        bundled=dict.fromkeys(PARAMS, "SMK"),
        parameters=[
            EngineParameter("cores", "int", str(node.cores)),
            EngineParameter("node", "string", place),
            EngineParameter("gpus", "int", ""),
            EngineParameter("dry_run", "boolean", "false"),
            EngineParameter("callback_url", "string", ""),
        ],
        tags=_node_tags(node),
    )


def _node_tags(node: Node) -> dict[str, str]:
    """The GPUs that tasks may lease, for clients that choose where to send a run."""
    tags = {"wesemu.node.gpus": str(len(node.gpus))}
    tags |= {f"wesemu.node.gpu.{gpu.index}": str(gpu) for gpu in node.gpus}
    if node.gpu_driver is not None:
        tags["wesemu.node.gpu_driver"] = node.gpu_driver
    return tags
