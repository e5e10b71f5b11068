"""`wesemu serve`: the server in the foreground."""

import asyncio
import contextlib
import errno
import ipaddress
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wesemu.cli.failures import ExitStatus, Refused
from wesemu.cli.options import DEFAULT_SERVER, Data

if TYPE_CHECKING:
    from wesemu.settings import Settings

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
        host=host, port=port, data=data, insecure=insecure or None, adopt_data=adopt_data or None
    )
    refuse_open_door(settings)
    warn_of_open_controls(settings)
    log_to_stderr(verbose)
    hide_environment()
    with listen(settings.host, settings.port) as door:
        asyncio.run(_serve(settings, door, ready_file))


async def _serve(settings: "Settings", door: socket.socket, ready_file: Path | None) -> None:
    from aiohttp import web

    from wesemu.app import create_app

    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    stops = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup has it
        stops.append(signal.SIGHUP)
    for number in stops:
        loop.add_signal_handler(number, stopped.set)
    app = await create_app(settings)
    # an object that is stored compressed stays so
    runner = web.AppRunner(
        app, access_log=None, shutdown_timeout=_FAREWELL_SECONDS, auto_decompress=False
    )
    announced = False
    try:
        await runner.setup()
        await web.SockSite(runner, door).start()
        announced = True
        await asyncio.to_thread(_announce, settings, door, ready_file)
        await stopped.wait()
        from wesemu.cli.output import tell

        tell("stopping; another Ctrl-C does not wait")
        for number in stops:
            loop.remove_signal_handler(number)
    finally:
        await runner.cleanup()
        if announced and ready_file is not None:
            await asyncio.to_thread(ready_file.unlink, missing_ok=True)


def refuse_open_door(settings: "Settings") -> None:
    """Raises Refused where anybody could come in: beyond loopback without credentials."""
    if settings.insecure or settings.auth.closed or is_loopback(settings.host):
        return
    raise Refused(
        f"{settings.host} can be reached from other machines and no credentials are set: anybody "
        "could run workflows here. Set auth.tokens, auth.oidc.issuer or auth.ags_keys, or say "
        "--insecure",
        ExitStatus.USAGE,
    )


def warn_of_open_controls(settings: "Settings") -> None:
    """Owners are kept apart, and yet every program on this machine could end all their runs."""
    if settings.controls and settings.auth.closed and not settings.auth.admin_token:
        from wesemu.cli.output import tell

        tell(
            "wesemu: credentials are set, but the controls below /_wesemu/ are open to this "
            "machine and to every workflow on it; set auth.admin_token, or controls = false"
        )


def is_loopback(host: str) -> bool:
    """Whether all that `host` stands for is this machine alone."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return all(ipaddress.ip_address(entry[4][0]).is_loopback for entry in found)


def listen(host: str, port: int) -> socket.socket:
    """A bound socket; connections are refused until the server listens on it.

    Raises Refused where the address is taken or is not this machine's.
    """
    door: socket.socket | None = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        door = socket.socket(family, kind, protocol)
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        door.bind(address)
    except OSError as error:
        if door is not None:
            door.close()
        if error.errno == errno.EADDRINUSE:
            told = "the port is taken, perhaps by another wesemu; choose one with --port, 0 = free"
        else:
            told = error.strerror or str(error)
        raise Refused(f"cannot listen on {host}:{port}: {told}", ExitStatus.MACHINE) from error
    return door


def log_to_stderr(verbose: bool) -> None:
    """Logs are talk: warnings and worse, or with `verbose` everything."""
    import logging

    import structlog

    level = logging.DEBUG if verbose else logging.WARNING
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            ),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def _announce(settings: "Settings", door: socket.socket, ready_file: Path | None) -> None:
    from wesemu import __version__
    from wesemu.cli.output import give, tell
    from wesemu.runs.workspace import write_atomically

    host, port = door.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    url = f"http://{shown}:{port}"
    give(url)
    sys.stdout.flush()
    if ready_file is not None:
        write_atomically(ready_file.absolute(), f"{url}\n".encode())
    tell(_banner(url, _short(settings.data), __version__))


def _banner(url: str, data: str, version: str) -> str:
    """What this is, where it answers, and three commands that make it do something."""
    where = "" if data == ".wesemu" else f" --data {data}"
    server = "" if url == DEFAULT_SERVER else f"  export WESEMU_SERVER={url}\n"
    return f"""
wesemu {version}: a local GA4GH WES and Alibaba Cloud Genomics Service that runs real tools

  WES   {url}/ga4gh/wes/v1
  AGS   {url}/gs/workflow
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
