"""create_app: with `wiring`, the only place that puts concrete parts together."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack

from aiohttp import web

from wesemu.api.connections import Connections, connection_limit
from wesemu.api.reception import Reception
from wesemu.callbacks import Callbacks
from wesemu.clock import Clock, WallClock
from wesemu.ids import IdSource
from wesemu.public_addresses import AddressGuard
from wesemu.readiness import Readiness
from wesemu.runs.ports import Engine
from wesemu.runs.service import RunService
from wesemu.settings import Settings
from wesemu.wiring.apis import UNREADABLE, build
from wesemu.wiring.controls import add_controls
from wesemu.wiring.core import Core, open_core
from wesemu.wiring.engines import find_sandbox
from wesemu.wiring.identity import found_verifier

RUNS: web.AppKey[RunService] = web.AppKey("runs", RunService)


async def create_app(
    settings: Settings,
    *,
    clock: Clock | None = None,
    ids: IdSource | None = None,
    engines: Sequence[Engine] | None = None,
) -> web.Application:
    """A server over `settings.data`, which it holds until the application's clean-up.

    `clock` stands for the wall clock, on which the emulated one runs; `engines` replaces the
    engines that the settings ask for. Raises DataDirectoryLocked, StoreError.
    """
    async with AsyncExitStack() as opening:
        sandbox = await asyncio.to_thread(find_sandbox, settings)
        core = await open_core(
            settings, clock or WallClock(), ids or IdSource(), engines, sandbox, opening
        )
        callbacks = _callbacks(settings, core)
        opening.push_async_callback(callbacks.close)
        readiness = Readiness(core.engines, core.store, core.data.root)
        opening.push_async_callback(readiness.close)
        if (verifier := await asyncio.to_thread(found_verifier, settings.auth.oidc)) is not None:
            opening.push_async_callback(verifier.close)
        reception = Reception(core.wall)
        app = await build(settings, core, core.objects, callbacks, reception, verifier)
        add_controls(app, settings, core, core.objects, reception, readiness, sandbox.kind)
        app[RUNS] = core.runs
        resources = opening.pop_all()

    async def serve_queue(_: web.Application) -> AsyncIterator[None]:
        async with resources:
            readiness.begin()
            await callbacks.start()
            await core.scheduler.start()
            await core.retention.start()
            yield
            await core.retention.close()
            await core.scheduler.close()

    app.cleanup_ctx.append(serve_queue)
    return app


def open_connections(settings: Settings, app: web.Application, files: int) -> Connections:
    """The connections of a server that may open so many `files`."""
    wanted = settings.server
    return Connections(
        wanted.connections or connection_limit(files),
        idle=wanted.idle_seconds,
        headers=wanted.header_seconds,
        stalled=wanted.stalled_seconds,
        unreadable=app[UNREADABLE],
    )


def _callbacks(settings: Settings, core: Core) -> Callbacks:
    guard = AddressGuard(settings.callbacks.networks)
    secret = settings.callbacks.secret
    callbacks = Callbacks(core.store.outbox, guard, WallClock(), secret=secret)
    core.store.watch(callbacks.moved)
    return callbacks
