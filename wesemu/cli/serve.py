"""`wesemu serve`: the server in the foreground."""

import asyncio
import contextlib
import errno
import io
import ipaddress
import os
import pwd
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from wesemu.cli.output import DEFAULT_SERVER, CommandRefused, Data, ExitStatus
from wesemu.util.text import os_reason

if TYPE_CHECKING:
    from structlog.typing import EventDict, ExcInfo

    from wesemu.settings import Settings


# Where `wesemu serve` listens, and who can reach it there.


_PEOPLE = range(1000, 60000)
"""User ids of people, as Linux distributions give them."""


def refuse_open_door(settings: "Settings") -> None:
    """Raises Refused where anybody could come in: beyond loopback without credentials."""
    local = settings.socket is not None or is_loopback(settings.host)
    if settings.insecure or settings.auth.closed or local:
        return
    raise CommandRefused(
        f"{settings.host} can be reached from other machines and no credentials are set: anybody "
        "could run workflows here. Set auth.tokens, auth.oidc.issuer or auth.ags_keys, or say "
        "--insecure",
        ExitStatus.USAGE,
    )


def warnings_about(settings: "Settings") -> Iterator[str]:
    """One sentence for each way in which others may do more than the operator might expect."""
    if settings.controls and settings.auth.closed and not settings.auth.admin_token:
        yield (
            "credentials are set, but the controls below /_wesemu/ are open to this machine and "
            "to every workflow on it; set auth.admin_token, or controls = false"
        )
    if not settings.auth.closed and settings.socket is None and (others := _other_users()):
        yield (
            f"without credentials the other users of this machine ({', '.join(others[:3])}"
            f"{', …' if others[3:] else ''}) can run programs as you; start with --socket PATH or "
            "--new-token, or set auth.tokens"
        )
    if settings.data.stat().st_mode & 0o007:
        yield (
            f"other users of this machine can read the data directory {settings.data}; "
            "'chmod 700' keeps it private"
        )


def _other_users() -> list[str]:
    return [
        user.pw_name
        for user in pwd.getpwall()
        if user.pw_uid in _PEOPLE
        and user.pw_uid != os.geteuid()
        and not user.pw_shell.endswith(("nologin", "false"))
    ]


def make_private(settings: "Settings") -> None:
    """Make the data directory, for this user only; what is made in it from now on, by this process
    and those that it starts, is as private as the directory. An existing one keeps its mode."""
    from wesemu.runs.data_directory import DataDirectory

    data = DataDirectory(settings.data)
    data.check(adopt=settings.adopt_data)
    data.make_root()
    os.umask(0o777 & ~settings.data.stat().st_mode | 0o022)


def with_token(settings: "Settings", token: str) -> "Settings":
    """The settings of a server that asks for one more token, its owner's. Where nobody had to show
    credentials before, that owner is still the only user, who may send workflows."""
    from wesemu.runs.model import LOCAL_OWNER

    auth = settings.auth.model_copy(update={"tokens": {**settings.auth.tokens, token: LOCAL_OWNER}})
    changed: dict[str, object] = {"auth": auth}
    if settings.workflows.owners == "auto" and not settings.auth.closed:
        owners = [LOCAL_OWNER]
        changed["workflows"] = settings.workflows.model_copy(update={"owners": owners})
    return settings.model_copy(update=changed)


def is_loopback(host: str) -> bool:
    """Whether all that `host` stands for is this machine alone."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return all(ipaddress.ip_address(entry[4][0]).is_loopback for entry in found)


def listen(settings: "Settings") -> socket.socket:
    """A bound socket; connections are refused until the server listens on it. Raises Refused."""
    if settings.socket is not None:
        return _listen_on_path(settings.socket.absolute())
    return listen_on_port(settings.host, settings.port)


def _listen_on_path(path: Path) -> socket.socket:
    """A unix socket that only this user can connect to; one that no server holds is replaced."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        if path.is_socket() and not _answers(path):
            path.unlink()
        listening.bind(str(path))
    except OSError as error:
        listening.close()
        taken = error.errno == errno.EADDRINUSE
        reason = "something is there already" if taken else os_reason(error)
        raise CommandRefused(f"cannot listen on {path}: {reason}", ExitStatus.MACHINE) from error
    finally:
        os.umask(before)
    return listening


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        try:
            client.connect(str(path))
        except OSError:
            return False
    return True


def url_of(listening: socket.socket) -> str:
    """`http://HOST:PORT`, or `unix:PATH`, which WESEMU_SERVER understands as well."""
    if listening.family == socket.AF_UNIX:
        return f"unix:{listening.getsockname()}"
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def listen_on_port(host: str, port: int) -> socket.socket:
    """A bound socket; connections are refused until the server listens on it.

    Raises Refused where the address is taken or is not this machine's.
    """
    listening: socket.socket | None = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        if listening is not None:
            listening.close()
        if error.errno == errno.EADDRINUSE:
            told = "the port is taken, perhaps by another wesemu; choose one with --port, 0 = free"
        else:
            told = os_reason(error)
        raise CommandRefused(
            f"cannot listen on {host}:{port}: {told}", ExitStatus.MACHINE
        ) from error
    return listening


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
        from wesemu.cli.output import print_note

        print_note("stopping; another Ctrl-C does not wait")
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

    from wesemu.cli.output import harmless

    text = io.StringIO()
    structlog.dev.plain_traceback(text, error)
    stream.write(harmless(text.getvalue()))


def _harmless_event(_: object, __: str, event: "EventDict") -> "EventDict":
    """The renderers write out control characters of values, and not those of the event."""
    from wesemu.cli.output import harmless_cell

    return {**event, "event": harmless_cell(str(event.get("event", "")))}


def _announce(
    settings: "Settings", listening: socket.socket, ready_file: Path | None, token: str | None
) -> None:
    import structlog

    from wesemu import __version__
    from wesemu.cli.output import print_note, print_result
    from wesemu.runs.run_directory import write_atomically

    url = url_of(listening)
    print_result(url)
    sys.stdout.flush()
    if ready_file is not None:
        write_atomically(ready_file.absolute(), f"{url}\n".encode())
    if settings.log_format == "json":
        log = structlog.get_logger("wesemu.serve")
        for warning in warnings_about(settings):
            log.warning(warning)
        return
    for warning in warnings_about(settings):
        print_note(f"wesemu: {warning}")
    print_note(_banner(url, _short(settings.data), __version__, token))


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
