"""`wesemu serve`: run the server in the foreground.

Parts: the verb and the server's lifecycle, access control and listening sockets, logging.
"""

import asyncio
import contextlib
import errno
import io
import ipaddress
import os
import pwd
import secrets
import shlex
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

from wesemu.cli.configuration import ConfigFile
from wesemu.cli.output import DEFAULT_SERVER, CommandRefused, Data, ExitStatus, path_option
from wesemu.util.text import os_reason

if TYPE_CHECKING:
    from structlog.typing import EventDict, ExcInfo

    from wesemu.settings import Settings

_POLL_SECONDS = 0.02
_SHUTDOWN_SECONDS = 2.0
"""Time for responses and threads to finish after the server stops."""

_THREADS = 32
"""Python's default is 6 on two cores: a few uploads that are joined would stop all requests."""


def register(app: typer.Typer) -> None:
    app.command("serve", rich_help_panel="Server")(serve)


def serve(
    host: Annotated[
        str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(help="Port to listen on; 0 selects a free one.", show_default="8070"),
    ] = None,
    data: Data = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Listen beyond loopback without credentials.")
    ] = False,
    adopt_data: Annotated[
        bool, typer.Option("--adopt-data", help="Use a data directory that contains other files.")
    ] = False,
    ready_file: Annotated[
        Path | None,
        path_option(help="Write the URL to this file when the server answers.", metavar="FILE"),
    ] = None,
    socket_path: Annotated[
        Path | None,
        path_option("--socket", help="Listen on a unix socket for this user only.", metavar="PATH"),
    ] = None,
    new_token: Annotated[
        bool, typer.Option("--new-token", help="Require a new token, which is printed.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Log every request on stderr.")
    ] = False,
    seed: Annotated[
        Path | None,
        path_option(
            help="A folder whose folders become buckets, and FASTAs references.", metavar="DIR"
        ),
    ] = None,
    init: Annotated[
        Path | None,
        path_option(help="A folder of scripts to run before the server is ready.", metavar="DIR"),
    ] = None,
    config: ConfigFile = None,
) -> None:
    """Serve both APIs until Ctrl-C.

    Prints the URL as the first line on stdout when the server answers.
    """
    from wesemu.api.connections import raise_file_limit
    from wesemu.cli.configuration import load_settings
    from wesemu.engines.sandbox import hide_environment
    from wesemu.runs.run_directory import replaceable

    if ready_file is not None:
        ready_file = replaceable(ready_file.absolute())
    settings = load_settings(
        host=host,
        port=port,
        data=data,
        socket=socket_path,
        insecure=insecure or None,
        adopt_data=adopt_data or None,
        seed=seed,
        init=init,
    )
    token = secrets.token_urlsafe(24) if new_token else None
    if token is not None:
        settings = with_token(settings, token)
    require_credentials(settings)
    files = raise_file_limit()
    log_to_stderr(verbose, settings.log_format)
    create_data_directory(settings)
    hide_environment()
    with listen(settings) as listening:
        asyncio.run(_serve(settings, listening, ready_file, token, files))


async def _serve(
    settings: "Settings",
    listening: socket.socket,
    ready_file: Path | None,
    token: str | None,
    files: int,
) -> None:
    from aiohttp import web

    from wesemu.api.connections import ConnectionSite, quiet_when_out_of_files
    from wesemu.app import STARTING, create_app, open_connections
    from wesemu.cli.init_scripts import find_scripts, run_scripts

    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    stops = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # ignored under nohup
        stops.append(signal.SIGHUP)
    for number in stops:
        loop.add_signal_handler(number, stopped.set)
    quiet_when_out_of_files(loop)
    threads = open_threads()
    loop.set_default_executor(threads)
    scripts = await asyncio.to_thread(find_scripts, settings.init)
    app = await create_app(settings)
    connections = open_connections(settings, app, files)
    # no decompression: compressed objects are stored as they arrive
    runner = web.AppRunner(
        app, access_log=None, shutdown_timeout=_SHUTDOWN_SECONDS, auto_decompress=False
    )
    announced = False
    try:
        await runner.setup()
        if scripts:
            app[STARTING].append("the scripts of the setting init are running")
        await ConnectionSite(runner, listening, connections).start()
        known = token or next(iter(settings.auth.tokens), "")
        variables = {"WESEMU_SERVER": url_of(listening), "WESEMU_TOKEN": known}
        await run_scripts(scripts, variables, stopped)
        if not stopped.is_set():
            app[STARTING].clear()
            announced = True
            await asyncio.to_thread(_announce, settings, listening, ready_file, token)
        await stopped.wait()
        from wesemu.cli.output import print_note

        print_note("stopping; press Ctrl-C again to stop at once")
        for number in stops:
            loop.remove_signal_handler(number)
        # exit at once: with KeyboardInterrupt asyncio would wait for all threads
        signal.signal(signal.SIGINT, lambda number, frame: os._exit(128 + number))
    finally:
        await runner.cleanup()
        if settings.socket is not None:
            await asyncio.to_thread(settings.socket.unlink, missing_ok=True)
        if announced and ready_file is not None:
            await asyncio.to_thread(ready_file.unlink, missing_ok=True)
    await _end_threads(threads)


def open_threads() -> ThreadPoolExecutor:
    """Return the threads for everything that blocks. Idle ones are reused before more start."""
    return ThreadPoolExecutor(_THREADS, thread_name_prefix="wesemu")


def _blocks_exit(thread: threading.Thread) -> bool:
    return not thread.daemon and thread is not threading.main_thread()


async def _end_threads(threads: ThreadPoolExecutor) -> None:
    """Wait for the threads, then exit without those that still read or copy a huge file.

    That is safe: a file that they write appears only when it is complete, as after a kill.
    """
    threads.shutdown(wait=False, cancel_futures=True)
    deadline = time.monotonic() + _SHUTDOWN_SECONDS
    while any(_blocks_exit(thread) for thread in threading.enumerate()):
        if time.monotonic() > deadline:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)
        await asyncio.sleep(_POLL_SECONDS)


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
        write_atomically(ready_file, f"{url}\n".encode())
    if settings.log_format == "json":
        log = structlog.get_logger("wesemu.serve")
        for warning in warnings_about(settings):
            log.warning(warning)
        return
    for warning in warnings_about(settings):
        print_note(f"wesemu: {warning}")
    print_note(_banner(url, _short(settings.data), __version__, token))


def _banner(url: str, data: str, version: str, token: str | None) -> str:
    """Return the text after the start: version, addresses, and three commands to try."""
    folder = shlex.quote(data)
    where = "" if data == ".wesemu" else f" --data {folder}"
    server = "" if url == DEFAULT_SERVER else f"  export WESEMU_SERVER={shlex.quote(url)}\n"
    server += f"  export WESEMU_TOKEN={token}\n" if token else ""
    base = "http://localhost" if url.startswith("unix:") else url
    return f"""
wesemu {version}: a local GA4GH WES and Alibaba Cloud Genomics Service that runs real tools

  pages {base}/
  WES   {base}/ga4gh/wes/v1
  AGS   {base}/gs/workflow
  data  {data}   (a folder in {data}/buckets is a bucket)

Next, in another terminal:
{server}  wesemu fixture {folder}/buckets/demo
  wesemu reference add demo {folder}/buckets/demo/reference.fa{where}
  wesemu run wgs --bucket demo --fastq1 reads_1.fq.gz --fastq2 reads_2.fq.gz \\
      --reference demo --output-vcf calls.vcf.gz --watch
Ctrl-C stops."""


def _short(path: Path) -> str:
    """Return the path relative to the current directory, if it is below."""
    with contextlib.suppress(ValueError, FileNotFoundError):  # elsewhere, or it has been removed
        return str(path.relative_to(Path.cwd()))
    return str(path)


# --- access control ---

_USER_IDS = range(1000, 60000)
"""User ids of people on Linux distributions."""


def require_credentials(settings: "Settings") -> None:
    """Raise CommandRefused if the server would listen beyond loopback without credentials."""
    local = settings.socket is not None or is_loopback(settings.host)
    if settings.insecure or settings.auth.closed or local:
        return
    raise CommandRefused(
        f"other machines can reach {settings.host} and no credentials are set: anybody could run "
        "workflows here. Set auth.tokens, auth.oidc.issuer or auth.ags_keys, or use --insecure",
        ExitStatus.USAGE,
    )


def warnings_about(settings: "Settings") -> Iterator[str]:
    """Yield a sentence for each setting that gives others more access than expected."""
    if settings.controls and settings.auth.closed and not settings.auth.admin_token:
        yield (
            "credentials are set, but the control API below /_wesemu/ is open to this machine and "
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
        if user.pw_uid in _USER_IDS
        and user.pw_uid != os.geteuid()
        and not user.pw_shell.endswith(("nologin", "false"))
    ]


def create_data_directory(settings: "Settings") -> None:
    """Create the data directory for this user only, and set the umask to its mode.

    The umask makes new files, also those of child processes, as private as the directory. An
    existing directory keeps its mode.
    """
    from wesemu.runs.data_directory import DataDirectory

    data = DataDirectory(settings.data)
    data.check(adopt=settings.adopt_data)
    data.make_root()
    os.umask(0o777 & ~settings.data.stat().st_mode | 0o022)


def with_token(settings: "Settings", token: str) -> "Settings":
    """Return the settings with one more token, for the owner `local`.

    If there were no credentials before, `local` is the only user and may send workflows.
    """
    from wesemu.runs.model import LOCAL_OWNER

    auth = settings.auth.model_copy(update={"tokens": {**settings.auth.tokens, token: LOCAL_OWNER}})
    changed: dict[str, object] = {"auth": auth}
    if settings.workflows.owners == "auto" and not settings.auth.closed:
        owners = [LOCAL_OWNER]
        changed["workflows"] = settings.workflows.model_copy(update={"owners": owners})
    return settings.model_copy(update=changed)


def is_loopback(host: str) -> bool:
    """Whether all addresses of `host` are loopback addresses."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return all(ipaddress.ip_address(entry[4][0]).is_loopback for entry in found)


def listen(settings: "Settings") -> socket.socket:
    """Return a bound socket, which refuses connections until the server listens on it.

    Raise CommandRefused if that fails.
    """
    if settings.socket is not None:
        return _listen_on_path(settings.socket.absolute())
    return listen_on_port(settings.host, settings.port)


def _listen_on_path(path: Path) -> socket.socket:
    """Bind a unix socket for this user only. Replace a socket that no server uses."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    previous = os.umask(0o177)
    try:
        if path.is_socket() and not _is_in_use(path):
            path.unlink()
        listening.bind(str(path))
    except OSError as error:
        listening.close()
        reason = "the path is in use" if error.errno == errno.EADDRINUSE else os_reason(error)
        if error.errno is None:  # Python's own check of the length
            reason = "the path is too long for a unix socket"
        raise CommandRefused(f"cannot listen on {path}: {reason}", ExitStatus.MACHINE) from error
    finally:
        os.umask(previous)
    return listening


def _is_in_use(path: Path) -> bool:
    """Whether a program listens on the unix socket, perhaps of another user or type."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        try:
            client.connect(str(path))
        except ConnectionRefusedError:
            return False
        except OSError:
            return True
    return True


def url_of(listening: socket.socket) -> str:
    """Return `http://HOST:PORT` or `unix:PATH`, as WESEMU_SERVER takes it."""
    if listening.family == socket.AF_UNIX:
        return f"unix:{listening.getsockname()}"
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def listen_on_port(host: str, port: int) -> socket.socket:
    """Return a bound socket, which refuses connections until the server listens on it.

    Raise CommandRefused if the address is in use or belongs to another machine.
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
            reason = (
                "the port is in use, perhaps by another wesemu; choose one with --port (0: any)"
            )
        else:
            reason = os_reason(error)
        raise CommandRefused(
            f"cannot listen on {host}:{port}: {reason}", ExitStatus.MACHINE
        ) from error
    return listening


# --- logging ---


def log_to_stderr(verbose: bool, log_format: str = "text") -> None:
    """Log runs, refused credentials and errors to stderr; with `verbose` each request as well."""
    import logging

    import structlog

    level = logging.DEBUG if verbose else logging.INFO
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
    renderers: list[structlog.typing.Processor] = [
        _sanitize_event,
        structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=_sanitize_traceback
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


def _sanitize_traceback(stream: TextIO, error: "ExcInfo") -> None:
    import structlog

    from wesemu.cli.output import sanitize

    text = io.StringIO()
    structlog.dev.plain_traceback(text, error)
    stream.write(sanitize(text.getvalue()))


def _sanitize_event(_: object, __: str, event: "EventDict") -> "EventDict":
    """Sanitize the event. The renderers escape control characters of values only."""
    from wesemu.cli.output import sanitize_cell

    return {**event, "event": sanitize_cell(str(event.get("event", "")))}
