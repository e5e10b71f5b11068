"""Where `wesemu serve` listens, and who can reach it there."""

import errno
import ipaddress
import os
import pwd
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from wesemu.cli.failures import ExitStatus, Refused
from wesemu.wording import os_reason

if TYPE_CHECKING:
    from wesemu.settings import Settings

_PEOPLE = range(1000, 60000)
"""User ids of people, as Linux distributions give them."""


def refuse_open_door(settings: "Settings") -> None:
    """Raises Refused where anybody could come in: beyond loopback without credentials."""
    local = settings.socket is not None or is_loopback(settings.host)
    if settings.insecure or settings.auth.closed or local:
        return
    raise Refused(
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
    from wesemu.datadir import DataDirectory

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
        raise Refused(f"cannot listen on {path}: {reason}", ExitStatus.MACHINE) from error
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
        raise Refused(f"cannot listen on {host}:{port}: {told}", ExitStatus.MACHINE) from error
    return listening
