"""The sandbox of the process that runs a user's workflow (THREAT_MODEL.md).

Files: a run can write its `work/`, `tmp/` and `tasks/` and the lease folder. Its `tmp/` replaces
/tmp and /var/tmp. It cannot read or list the rest of the data directory and the credentials in the
home folder. It can read other files with the rights of the server's user.
Processes: a run cannot signal or trace outside processes, so it cannot read their environment.
Network: separate setting.

Parts: bubblewrap command lines; `Sandbox` and `choose_sandbox`; `enter_sandbox` with namespaces,
capabilities and Landlock; `in_bubblewrap`.
"""

import ctypes
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

from wesemu.engines import isolation
from wesemu.engines.isolation import DEVICES, READ, WRITE, FileAccess
from wesemu.errors import EngineFault
from wesemu.runs.ports import QueuePriority
from wesemu.runs.run_directory import Workspace

# The sandbox by bubblewrap (bwrap(1)).

_RESET = (
    "import os, signal, sys; signal.signal(signal.SIGTERM, signal.SIG_DFL); "
    "os.execvp(sys.argv[1], sys.argv[1:])"
)

_BWRAP_CAPABILITIES = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID")
"""Capabilities that root needs for file ownership (capabilities(7))."""


def find_bubblewrap() -> tuple[str, str]:
    """Return path and version of bwrap after a trial. Blocks. Raises EngineFault."""
    program = shutil.which("bwrap")
    if program is None:
        raise EngineFault(
            'engine.sandbox = "bubblewrap" needs the program bwrap on PATH: install bubblewrap, '
            'or set engine.sandbox = "auto"'
        )
    attempt = [program, "--ro-bind", "/", "/", "--unshare-pid", "--proc", "/proc", "--", "true"]
    tried = subprocess.run(attempt, capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        reason = (tried.stderr.strip().splitlines() or ["no error message"])[-1]
        raise EngineFault(
            f'engine.sandbox = "bubblewrap": {program} does not work here: {reason}; permit user '
            'namespaces, or set engine.sandbox = "auto"'
        )
    answer = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    return program, answer.stdout.strip()


def bubblewrap(
    program: str,
    command: Sequence[str],
    *,
    run: Path,
    shown: Sequence[Path],
    writable: Sequence[Path],
    hidden: Sequence[Path],
    network: bool,
) -> list[str]:
    """Return the command line that runs `command` in the sandbox of the run directory `run`.

    bwrap starts with SIGTERM ignored, and `command` handles it again: if bwrap ended first, it
    would kill `command`. Raises EngineFault.
    """
    options = [*("--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc")]
    options += [*_bwrap_devices(), *_temporary(run, [run, *shown, *writable])]
    closed = [path for path in hidden if path.exists()]
    for path in closed:
        if path.is_dir():
            options += ["--tmpfs", str(path)]
        else:
            options += ["--ro-bind", "/dev/null", str(path)]
    # later binds win: first the visible paths, then the writable ones inside them
    for path in sorted({run, *(path for path in shown if isolation.is_below(path, closed))}):
        options += ["--ro-bind-try", str(path), str(path)]
    for path in sorted(writable):
        options += ["--bind-try", str(path), str(path)]
    # at the end, because bwrap creates mount points in these folders
    for path in closed:
        options += ["--remount-ro", str(path)] if path.is_dir() else []
    options += ["--unshare-pid", "--unshare-ipc", "--die-with-parent"]
    options += ["--cap-drop", "ALL"]
    if os.geteuid() == 0:
        for capability in _BWRAP_CAPABILITIES:
            options += ["--cap-add", f"CAP_{capability}"]
    options += [] if network else ["--unshare-net"]
    ignoring = ["sh", "-c", 'trap "" TERM; exec "$@"', "sh"]
    resetting = [sys.executable, "-I", "-S", "-c", _RESET]
    return [*ignoring, program, *options, "--", *resetting, *command]


def _bwrap_devices() -> Iterator[str]:
    """Yield the options for GPU devices; `--dev` has only the basic ones."""
    for path in _gpu_devices():
        yield from ("--dev-bind-try", path, path)


def _temporary(run: Path, shown: Sequence[Path]) -> Iterator[str]:
    """Yield the options that mount `tmp/` over /tmp and keep the paths to `shown` visible."""
    covered = isolation.covered_folders(shown)
    for folder in sorted(covered):
        yield from ("--bind", str(run / "tmp"), str(folder))
    tops = {top for path in shown for top in isolation.tops(path, covered)}
    for top in sorted(top for top in tops if top.exists()):
        if (run / "tmp" / top.name).is_symlink():
            raise EngineFault(f"{run / 'tmp' / top.name} is a link; remove it")
        yield from ("--ro-bind", str(top.resolve()), str(top))


SandboxMode = Literal["auto", "landlock", "bubblewrap", "none"]

_CREDENTIALS = (
    *(".ssh", ".gnupg", ".aws", ".azure", ".aliyun", ".alibabacloud", ".oss", ".ossutilconfig"),
    *(".s3cfg", ".boto", ".mc", ".mcli", ".config/rclone", ".config/gcloud", ".oci"),
    *(".config/gh", ".config/git/credentials", ".git-credentials", ".config/oss", ".dockstore"),
    *(".docker", ".config/containers", ".kube", ".terraform.d", ".netrc", ".pypirc", ".npmrc"),
    *(".vault-token", ".pgpass", ".my.cnf", ".kaggle", ".password-store", ".local/share/keyrings"),
    *(".bash_history", ".zsh_history", ".python_history"),
)
"""Credentials in a home folder."""

_PR_SET_DUMPABLE = 4
_CAPABILITY_VERSION = 0x20080522
_KEPT_CAPABILITIES = sum(1 << number for number in (0, 1, 3, 4, 5, 6, 7))
"""CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID; see capabilities(7)."""
_KEPT = (*(_KEPT_CAPABILITIES,) * 3, 0, 0, 0)
"""Argument of capset(2): effective, permitted, inheritable; the low 32 bits of each first."""


@dataclass(frozen=True, slots=True)
class Sandbox:
    """Sandbox settings that all runs of a server share.

    Runs cannot access the hierarchies in `hidden`, except `readable` and `writable` ones. The
    rest is read-only, except `writable`. `private_temporary`: each run has its own /tmp.
    `program` is the path of bwrap; an empty path selects Landlock.
    """

    hidden: tuple[str, ...]
    readable: tuple[str, ...] = ()
    writable: tuple[str, ...] = ()
    network: bool = True
    private_temporary: bool = False
    program: str = ""


class SandboxChoice(NamedTuple):
    """`sandbox`, or None for no sandbox; `kind` describes the choice and its reason."""

    sandbox: Sandbox | None
    kind: str


def choose_sandbox(
    mode: SandboxMode,
    data: Path,
    *,
    readable: Sequence[Path] = (),
    writable: Sequence[Path] = (),
    network: bool = True,
) -> SandboxChoice:
    """Return the sandbox for this machine.

    Raises EngineFault if the settings ask for a sandbox that this machine does not support.
    """
    if mode == "none":
        if not network:
            raise EngineFault(
                'engine.network = false needs a sandbox; set engine.sandbox = "auto" as well'
            )
        return SandboxChoice(None, 'none: engine.sandbox = "none"')
    home = Path.home()
    sandbox = Sandbox(
        hidden=(str(data.resolve()), *(str((home / name).resolve()) for name in _CREDENTIALS)),
        readable=tuple(str(path.expanduser().resolve()) for path in readable),
        writable=tuple(str(path.expanduser().resolve()) for path in writable),
        network=network,
        private_temporary=isolation.namespace_allowed("mounts"),
    )
    newest = isolation.landlock_version()
    if mode == "bubblewrap":
        program, version = find_bubblewrap()
        sandbox = replace(sandbox, program=program)
        return SandboxChoice(sandbox, f"{version}{'' if network else '; no network'}")
    if newest == 0:
        if mode == "landlock" or not network:
            raise EngineFault(
                "this machine has no Landlock (Linux 5.13 or newer, not switched off); set "
                'engine.sandbox = "none" and engine.network = true, or use another kernel'
            )
        return SandboxChoice(None, "none: this kernel has no Landlock")
    if (
        not network
        and newest < isolation.NETWORK_SINCE
        and not isolation.namespace_allowed("network")
    ):
        raise EngineFault(
            "engine.network = false needs Linux 6.7 or newer, or user namespaces; "
            "this machine has neither"
        )
    notes = [f"landlock {newest}"]
    notes += [] if newest >= isolation.SIGNALS_SINCE else ["signals are not kept inside"]
    notes += [] if sandbox.private_temporary else ["runs have no /tmp of their own"]
    notes += [] if network else ["no network"]
    return SandboxChoice(sandbox, "; ".join(notes))


def enter_sandbox(
    sandbox: Sandbox, workspace: Workspace, priority: QueuePriority | None = None, *extra: Path
) -> None:
    """Restrict this process and its children to one run; irrevocable.

    The lease folder of `priority` and the folders `extra` are writable as well. The process must
    have one thread. Raises EngineFault.
    """
    # The order matters. unshare(2) and mount(2) come first: dropped capabilities and Landlock
    # forbid them (a process with a Landlock ruleset cannot change mounts). Landlock comes last,
    # because its rules apply to the files behind the paths as they are at that moment.
    writable = [*_make_folders(workspace), *([priority.folder] if priority else []), *extra]
    without_network = not sandbox.network and _leave_network()
    if sandbox.private_temporary:
        _replace_temporary(sandbox, workspace, writable)
    _drop_capabilities()
    # `echo … > /dev/stderr` opens these again in processes that have no log of their own
    logs = (workspace.stdout, workspace.stderr)
    isolation.restrict_access(
        _rules(sandbox, workspace.root, [*writable, *logs]),
        deny_tcp=not sandbox.network and not without_network,
    )


def in_bubblewrap(
    sandbox: Sandbox, workspace: Workspace, command: Sequence[str], *extra: Path
) -> list[str]:
    """Return the command line that runs `command` with the limits of `enter_sandbox`.

    The command cannot take leases. Raises EngineFault.
    """
    return bubblewrap(
        sandbox.program,
        command,
        run=workspace.root,
        shown=_shown(sandbox, workspace),
        writable=[*_make_folders(workspace), *extra, *map(Path, sandbox.writable)],
        hidden=[Path(path) for path in sandbox.hidden],
        network=sandbox.network,
    )


def _make_folders(workspace: Workspace) -> list[Path]:
    """Create the folders that a run writes to, and return them."""
    folders = [workspace.work, workspace.tasks, workspace.root / "tmp"]
    for folder in folders:
        folder.mkdir(exist_ok=True)
    return folders


def _shown(sandbox: Sandbox, workspace: Workspace) -> list[Path]:
    """Return the paths that a run needs. Interpreter, PATH and home may be below /tmp."""
    path = os.environ.get("PATH", os.defpath).split(os.pathsep)
    needed = (*path, *sys.path, sys.prefix, sys.base_prefix, str(Path.home()))
    folders = {path for path in map(Path, needed) if path.is_absolute()}.difference(
        isolation.TEMPORARY  # as a home folder of system users
    )
    return [workspace.root, *map(Path, sandbox.readable), *folders]


def hide_environment() -> None:
    """Hide environment and memory of this process from other processes of its user.

    The server calls this because its settings may hold secrets. Linux only.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def _rules(
    sandbox: Sandbox, run: Path, writable: Sequence[Path]
) -> Iterator[tuple[str, FileAccess]]:
    for path in _outside("/", {*sandbox.hidden, "/dev"}):
        yield path, READ
    yield from _devices()
    for path in sandbox.readable:
        yield path, READ
    yield str(run), READ
    for path in (*map(str, writable), *sandbox.writable):
        yield path, WRITE


def _outside(folder: str, hidden: set[str]) -> Iterator[str]:
    """Yield the largest hierarchies below `folder` without hidden paths.

    Skips links: Landlock rules apply to the real location of a file.
    """
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return
    for entry in entries:
        path = entry.path
        if path in hidden or entry.is_symlink():
            continue
        if any(other.startswith(f"{path}/") for other in hidden):
            yield from _outside(path, hidden)
        else:
            yield path


def _devices() -> Iterator[tuple[str, FileAccess]]:
    """Yield the basic devices and GPUs, but no disks and no memory."""
    for name in ("null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts"):
        yield f"/dev/{name}", DEVICES
    yield "/dev/shm", WRITE  # noqa: S108  POSIX shared memory and semaphores
    for path in _gpu_devices():
        yield path, DEVICES


def _gpu_devices() -> list[str]:
    patterns = ("nvidia*", "dri", "kfd", "infiniband")
    return [str(path) for pattern in patterns for path in Path("/dev").glob(pattern)]


def _drop_capabilities() -> None:
    """As root, keep the capabilities for file ownership and drop all others.

    The others give access to other processes, disks and memory.
    """
    library = ctypes.CDLL(None, use_errno=True)
    version = struct.pack("=Ii", _CAPABILITY_VERSION, 0)
    data = ctypes.create_string_buffer(24)
    if library.capget(version, data) != 0:
        return
    words = [word & kept for word, kept in zip(struct.unpack("=6I", data.raw), _KEPT, strict=True)]
    library.capset(version, struct.pack("=6I", *words))


def _leave_network() -> bool:
    try:
        isolation.leave_network()
    except OSError:
        return False
    return True


def _replace_temporary(sandbox: Sandbox, workspace: Workspace, writable: Sequence[Path]) -> None:
    try:
        isolation.replace_temporary(
            workspace.root / "tmp",
            shown=_shown(sandbox, workspace),
            writable=[*writable, *map(Path, sandbox.writable)],
            hidden=[Path(path) for path in sandbox.hidden],
        )
    except OSError as error:
        raise EngineFault(
            f"the sandbox cannot be entered: private /tmp: {error.strerror}"
        ) from error
