"""`wesemu serve`: the server in the foreground."""

import asyncio
import contextlib
import io
import os
import secrets
import signal
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from wesemu.cli.listen import (
    listen,
    make_private,
    refuse_open_door,
    url_of,
    warnings_about,
    with_token,
)
from wesemu.cli.options import DEFAULT_SERVER, Data

if TYPE_CHECKING:
    from structlog.typing import EventDict, ExcInfo

    from wesemu.settings import Settings

_GLANCE_SECONDS = 0.02
_FAREWELL_SECONDS = 2.0
"""How long answers that are under way may take once the server stops."""


def register(app: typer.Typer) -> None:
    app.command("serve", rich_help_panel="Server")(serve)


def serve(
    host: Annotated[
        str | None, typer.Option(help="The address to listen on.", show_default="127.0.0.1")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(help="The port to listen on; 0 takes a free one.", show_default="8070"),
    ] = None,
    data: Data = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Listen beyond loopback without credentials.")
    ] = False,
    adopt_data: Annotated[
        bool,
        typer.Option("--adopt-data", help="Use a data directory that holds files of others."),
    ] = False,
    ready_file: Annotated[
        Path | None,
        typer.Option(help="Write the server's URL there once it answers.", metavar="FILE"),
    ] = None,
    socket_path: Annotated[
        Path | None,
        typer.Option(
            "--socket", help="Listen on a unix socket that only you reach.", metavar="PATH"
        ),
    ] = None,
    new_token: Annotated[
        bool, typer.Option("--new-token", help="Ask for a token, made anew and printed.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Log every request on stderr.")
    ] = False,
) -> None:
    """Serve both APIs until Ctrl-C.

    The first line on stdout is the server's URL, printed when it answers.
    """
    from wesemu.cli.configuration import load
    from wesemu.engines.sandbox import hide_environment

    settings = load(
        host=host,
        port=port,
        data=data,
        socket=socket_path,
        insecure=insecure or None,
        adopt_data=adopt_data or None,
    )
    token = secrets.token_urlsafe(24) if new_token else None
    if token is not None:
        settings = with_token(settings, token)
    refuse_open_door(settings)
    log_to_stderr(verbose, settings.log_format)
    make_private(settings)
    hide_environment()
    with listen(settings) as listening:
        asyncio.run(_serve(settings, listening, ready_file, token))


async def _serve(
    settings: "Settings", listening: socket.socket, ready_file: Path | None, token: str | None
) -> None:
    from aiohttp import web

    from wesemu.api.connections import ConnectionSite, quiet_when_out_of_files, raise_file_limit
    from wesemu.app import create_app, open_connections

    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    stops = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup has it
        stops.append(signal.SIGHUP)
    for number in stops:
        loop.add_signal_handler(number, stopped.set)
    quiet_when_out_of_files(loop)
    files = raise_file_limit()
    threads = ThreadPoolExecutor(thread_name_prefix="wesemu")
    loop.set_default_executor(threads)
    app = await create_app(settings)
    connections = open_connections(settings, app, files)
    # an object that is stored compressed stays so
    runner = web.AppRunner(
        app, access_log=None, shutdown_timeout=_FAREWELL_SECONDS, auto_decompress=False
    )
    announced = False
    try:
        await runner.setup()
        await ConnectionSite(runner, listening, connections).start()
        announced = True
        await asyncio.to_thread(_announce, settings, listening, ready_file, token)
        await stopped.wait()
        from wesemu.cli.output import tell

        tell("stopping; another Ctrl-C does not wait")
        for number in stops:
            loop.remove_signal_handler(number)
        # not as KeyboardInterrupt, at which asyncio waits for all threads
        signal.signal(signal.SIGINT, lambda number, frame: os._exit(128 + number))
    finally:
        await runner.cleanup()
        if settings.socket is not None:
            await asyncio.to_thread(settings.socket.unlink, missing_ok=True)
        if announced and ready_file is not None:
            await asyncio.to_thread(ready_file.unlink, missing_ok=True)
    await _leave_threads(threads)


def _keeps_alive(thread: threading.Thread) -> bool:
    return not thread.daemon and thread is not threading.main_thread()


async def _leave_threads(threads: ThreadPoolExecutor) -> None:
    """End the process, if need be without threads that read or copy a huge file: whatever they
    make is whole or nothing, as after a kill."""
    threads.shutdown(wait=False, cancel_futures=True)
    deadline = time.monotonic() + _FAREWELL_SECONDS
    while any(_keeps_alive(thread) for thread in threading.enumerate()):
        if time.monotonic() > deadline:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)
        await asyncio.sleep(_GLANCE_SECONDS)


def log_to_stderr(verbose: bool, log_format: str = "text") -> None:
    """The life of runs, refused credentials and what is wrong; with `verbose` each request."""
    import logging

    import structlog

    level = logging.DEBUG if verbose else logging.INFO
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
    renderers: list[structlog.typing.Processor] = [
        _harmless_event,
        structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=_harmless_traceback
        ),
    ]
    if log_format == "json":
        renderers = [structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer()]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            *renderers,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def _harmless_traceback(stream: TextIO, error: "ExcInfo") -> None:
    import structlog

    from wesemu.cli.terminal import harmless

    text = io.StringIO()
    structlog.dev.plain_traceback(text, error)
    stream.write(harmless(text.getvalue()))


def _harmless_event(_: object, __: str, event: "EventDict") -> "EventDict":
    """The renderers write out control characters of values, and not those of the event."""
    from wesemu.cli.terminal import harmless_cell

    return {**event, "event": harmless_cell(str(event.get("event", "")))}


def _announce(
    settings: "Settings", listening: socket.socket, ready_file: Path | None, token: str | None
) -> None:
    import structlog

    from wesemu import __version__
    from wesemu.cli.output import give, tell
    from wesemu.runs.workspace import write_atomically

    url = url_of(listening)
    give(url)
    sys.stdout.flush()
    if ready_file is not None:
        write_atomically(ready_file.absolute(), f"{url}\n".encode())
    if settings.log_format == "json":
        log = structlog.get_logger("wesemu.serve")
        for warning in warnings_about(settings):
            log.warning(warning)
        return
    for warning in warnings_about(settings):
        tell(f"wesemu: {warning}")
    tell(_banner(url, _short(settings.data), __version__, token))


def _banner(url: str, data: str, version: str, token: str | None) -> str:
    """What this is, where it answers, and three commands that make it do something."""
    where = "" if data == ".wesemu" else f" --data {data}"
    server = "" if url == DEFAULT_SERVER else f"  export WESEMU_SERVER={url}\n"
    server += f"  export WESEMU_TOKEN={token}\n" if token else ""
    base = "http://localhost" if url.startswith("unix:") else url
    return f"""
wesemu {version}: a local GA4GH WES and Alibaba Cloud Genomics Service that runs real tools

  WES   {base}/ga4gh/wes/v1
  AGS   {base}/gs/workflow
  data  {data}   (a folder in {data}/buckets is a bucket)

Next, in another terminal:
{server}  wesemu fixture {data}/buckets/demo
  wesemu reference add demo {data}/buckets/demo/reference.fa{where}
  wesemu run wgs --bucket demo --fastq1 reads_1.fq.gz --fastq2 reads_2.fq.gz \\
      --reference demo --output-vcf calls.vcf.gz --watch
Ctrl-C stops."""


def _short(path: Path) -> str:
    """Relative to here where that is shorter to read and to type."""
    with contextlib.suppress(ValueError):
        return str(path.relative_to(Path.cwd()))
    return str(path)
