"""The dialects over the core, in one application."""

import asyncio
import hashlib
from datetime import datetime
from importlib.util import find_spec

from aiohttp import web
from yarl import URL

from wesemu import __version__
from wesemu.api.ags.authenticator import Authenticator
from wesemu.api.ags.dialect import AgsDialect
from wesemu.api.ags.routes import AgsHandlers
from wesemu.api.control.access import Access
from wesemu.api.control.dialect import ControlDialect
from wesemu.api.cors import CrossOrigins
from wesemu.api.dialect import Dialect
from wesemu.api.middleware import around
from wesemu.api.oss.authenticator import OssAuthenticator
from wesemu.api.oss.dialect import OssDialect
from wesemu.api.oss.routes import OssHandlers
from wesemu.api.proxies import Proxies
from wesemu.api.reception import Reception
from wesemu.api.unreadable import UnreadableRequests
from wesemu.api.visitors import Visitors, names_loopback
from wesemu.api.wes.auth import TokenAuthenticator, Verifier
from wesemu.api.wes.dialect import WesDialect
from wesemu.api.wes.events import RunEvents
from wesemu.api.wes.facts import EngineParameter, ServiceFacts
from wesemu.api.wes.routes import routes as wes_routes
from wesemu.callbacks import Callbacks
from wesemu.clock import WallClock
from wesemu.engine_parameters import PARAMETERS
from wesemu.nodes import Node
from wesemu.objects.buckets import Buckets
from wesemu.objects.services import ObjectServices
from wesemu.provenance.maker import CrateMaker
from wesemu.settings import Settings
from wesemu.wiring.core import Core
from wesemu.workflows.params import PARAMS

UNREADABLE: web.AppKey[UnreadableRequests] = web.AppKey("unreadable", UnreadableRequests)


async def build(
    settings: Settings,
    core: Core,
    objects: ObjectServices,
    callbacks: Callbacks,
    reception: Reception,
    verifier: Verifier | None,
) -> web.Application:
    """WES, AGS and the bucket door; the controls come on top.

    Signatures are checked on the wall clock. Credentials of one API close the others, too.
    """
    auth, keys = settings.auth, settings.auth.ags_keys
    by_token = TokenAuthenticator(auth.tokens, guarded=bool(keys), verifier=verifier)
    bearer = by_token.ask if auth.bearers else None
    apis: list[Dialect] = [
        WesDialect(by_token),
        AgsDialect(Authenticator(keys, WallClock(), bearer=bearer)),
        ControlDialect(Access(auth.admin_token, enabled=settings.controls)),
    ]
    oss = OssDialect(
        OssAuthenticator(keys, WallClock(), guarded=auth.bearers),
        objects.shelves,
        apis,
        OssHandlers(objects),
    )
    dialects = [oss, *apis]
    origins = CrossOrigins(settings.server.cors_origins)
    app = web.Application(
        middlewares=[
            around(
                dialects,
                core.ids,
                reception,
                _visitors(settings, origins),
                proxies=Proxies(settings.server.trusted_proxies, settings.server.public_url),
                origins=origins,
            )
        ]
    )
    app.on_response_prepare.append(origins.mark)
    app[UNREADABLE] = UnreadableRequests(dialects, core.ids)
    secret = await asyncio.to_thread(core.data.secret)
    created = await asyncio.to_thread(core.data.created)
    app.add_routes(
        wes_routes(
            core.runs,
            _facts(core, settings.node.default, created),
            page_key=secret,
            version=settings.wes.version,
            check_callback=callbacks.check,
            crates=await asyncio.to_thread(_crates, core),
            events=(events := RunEvents(core.runs)),
        )
    )
    app.on_shutdown.append(events.close)
    app.add_routes(_ags(core, secret).routes())
    return app


def _names(settings: Settings) -> list[str]:
    public = URL(settings.server.public_url).host if settings.server.public_url else None
    return [*settings.hosts, *([public] if public else [])]


def _visitors(settings: Settings, origins: CrossOrigins) -> Visitors:
    return Visitors(
        is_open=not settings.auth.closed,
        hosts=_names(settings) if names_loopback(settings.host) else None,
        insecure=settings.insecure,
        origins=origins,
    )


def _crates(core: Core) -> CrateMaker | None:
    """None where the extra `crate` is not installed."""
    if find_spec("rocrate") is None:
        return None
    return CrateMaker(Buckets(core.data.buckets), core.pipelines)


def _ags(core: Core, secret: bytes) -> AgsHandlers:
    """The account and cluster that jobs are said to belong to are this data directory's own."""
    account = hashlib.sha256(secret).hexdigest()
    return AgsHandlers(
        core.runs,
        core.keeper.clock,
        namespace=str(int(account, 16))[:16],
        cluster_id=f"c{account[:32]}",
    )


def _facts(core: Core, place: str, created: datetime) -> ServiceFacts:
    engines, node = core.engines, core.node
    types = {
        kind: versions for engine in engines for kind, versions in engine.workflow_types.items()
    }
    return ServiceFacts(
        version=__version__,
        created=created,
        workflow_types=types,
        engines={engine.name: engine.version for engine in engines},
        bundled=dict.fromkeys(PARAMS, "SMK"),
        carriers={kind: engine.name for engine in engines for kind in engine.workflow_types},
        protocols=core.elsewhere.protocols,
        parameters=_parameters(core, place),
        tags=_node_tags(node),
    )


def _parameters(core: Core, place: str) -> list[EngineParameter]:
    """Those of the table that one of this server's engines takes, with this node's defaults."""
    defaults = {"cores": str(core.node.cores), "node": place}
    found = {engine.name for engine in core.engines}
    return [
        EngineParameter(each.name, each.kind, defaults.get(each.name, each.default))
        for each in PARAMETERS
        if not each.engines or found.intersection(each.engines)
    ]


def _node_tags(node: Node) -> dict[str, str]:
    """The GPUs that tasks may lease, for clients that choose where to send a run."""
    tags = {"wesemu.node.gpus": str(len(node.gpus))}
    tags |= {f"wesemu.node.gpu.{gpu.index}": str(gpu) for gpu in node.gpus}
    if node.gpu_driver is not None:
        tags["wesemu.node.gpu_driver"] = node.gpu_driver
    return tags
