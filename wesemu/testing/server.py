"""The server of the pytest plugin: a process that ends with the tests.

`python -m wesemu.testing.server ENGINE SETTINGS` serves a data directory of its own on a free port.
ENGINE is "scripted" or "real", SETTINGS a JSON object like wesemu.toml. It prints its URL, serves
until its standard input ends, and removes the data directory. Standard input also ends when the
test process is killed.
"""

import asyncio
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory

import structlog
from aiohttp import web

from wesemu.api.connections import ConnectionSite, raise_file_limit
from wesemu.app import create_app, open_connections
from wesemu.engines.sandbox import hide_environment
from wesemu.runs.clock import WallClock
from wesemu.runs.model import JsonObject
from wesemu.runs.ports import Engine
from wesemu.settings import Settings
from wesemu.testing.fake_engine import ScriptedEngine
from wesemu.testing.scripts import script_of

_SHUTDOWN_SECONDS = 2.0
_TYPES = {"SMK": ("9",), "CWL": ("v1.0", "v1.1", "v1.2"), "WDL": ("1.0", "1.1")}


def main(engine: str, settings: str) -> None:
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(30),  # warnings and errors
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    hide_environment()
    with TemporaryDirectory(prefix="wesemu-", ignore_cleanup_errors=True) as folder:
        os.chdir(folder)  # no wesemu.toml of the tests' folder applies
        asyncio.run(_serve(Path(folder), _engines(engine), json.loads(settings)))


def _engines(name: str) -> Sequence[Engine] | None:
    """Return the scripted engine; None for "real", which means the engines of the settings."""
    if name == "real":
        return None
    scripted = ScriptedEngine(
        WallClock(), script=script_of, name="snakemake", workflow_types=_TYPES
    )
    scripted.version = metadata.version("snakemake")
    return [scripted]


async def _serve(folder: Path, engines: Sequence[Engine] | None, given: JsonObject) -> None:
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    settings = Settings.model_validate({"data": folder / "data", **given})
    app = await create_app(settings, engines=engines)
    runner = web.AppRunner(
        app, access_log=None, shutdown_timeout=_SHUTDOWN_SECONDS, auto_decompress=False
    )
    await runner.setup()
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        connections = open_connections(settings, app, raise_file_limit())
        await ConnectionSite(runner, listening, connections).start()
        print(f"http://127.0.0.1:{listening.getsockname()[1]}", flush=True)  # noqa: T201

        def wait_for_end() -> None:
            while os.read(0, 1 << 12):
                pass
            loop.call_soon_threadsafe(stopped.set)

        threading.Thread(target=wait_for_end, name="stdin", daemon=True).start()
        await stopped.wait()
        await runner.cleanup()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
