"""The sandbox by bubblewrap (bwrap(1)): a command with file systems and processes of its own.

It can wrap commands only, not a process that is forked: runs of Snakemake in the mode "cli" and
dry runs. What is visible is the same as in the sandbox by Landlock, but for processes outside,
which are invisible as well, and hidden folders, which are empty.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from wesemu.engines import namespaces
from wesemu.errors import EngineFault

_RESET = (
    "import os, signal, sys; signal.signal(signal.SIGTERM, signal.SIG_DFL); "
    "os.execvp(sys.argv[1], sys.argv[1:])"
)

_KEPT_CAPABILITIES = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID")
"""Root's, for the owners of files; see capabilities(7)."""


def find_bubblewrap() -> tuple[str, str]:
    """The path of bwrap and its version, once it has worked. Blocks. Raises EngineFault."""
    program = shutil.which("bwrap")
    if program is None:
        raise EngineFault(
            'engine.sandbox = "bubblewrap" needs the program bwrap on PATH: install bubblewrap, '
            'or set engine.sandbox = "auto"'
        )
    attempt = [program, "--ro-bind", "/", "/", "--unshare-pid", "--proc", "/proc", "--", "true"]
    tried = subprocess.run(attempt, capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        reason = (tried.stderr.strip().splitlines() or ["it says nothing"])[-1]
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
    """The command line that runs `command` in the sandbox of the run directory `run`.

    bwrap itself ignores SIGTERM, which is for `command`. Raises EngineFault.
    """
    options = [*("--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc")]
    options += [*_devices(), *_temporary(run, [run, *shown, *writable])]
    closed = [path for path in hidden if path.exists()]
    for path in closed:
        if path.is_dir():
            options += ["--tmpfs", str(path)]
        else:
            options += ["--ro-bind", "/dev/null", str(path)]
    for path in sorted({run, *(path for path in shown if _is_below(path, closed))}):
        options += ["--ro-bind-try", str(path), str(path)]
    for path in sorted(writable):
        options += ["--bind-try", str(path), str(path)]
    for path in closed:
        options += ["--remount-ro", str(path)] if path.is_dir() else []
    options += ["--unshare-pid", "--unshare-ipc", "--die-with-parent"]
    options += ["--cap-drop", "ALL"]
    if os.geteuid() == 0:
        for capability in _KEPT_CAPABILITIES:
            options += ["--cap-add", f"CAP_{capability}"]
    options += [] if network else ["--unshare-net"]
    ignoring = ["sh", "-c", 'trap "" TERM; exec "$@"', "sh"]
    resetting = [sys.executable, "-I", "-S", "-c", _RESET]
    return [*ignoring, program, *options, "--", *resetting, *command]


def _is_below(path: Path, folders: Sequence[Path]) -> bool:
    return any(path.is_relative_to(folder) for folder in folders)


def _devices() -> Iterator[str]:
    """GPUs, beside what every program may use."""
    for pattern in ("nvidia*", "dri", "kfd", "infiniband"):
        for path in Path("/dev").glob(pattern):
            yield from ("--dev-bind-try", str(path), str(path))


def _temporary(run: Path, shown: Sequence[Path]) -> Iterator[str]:
    """The run's `tmp/` for /tmp, in which the ways to `shown` reappear."""
    covered = namespaces.covered_folders(shown)
    for folder in sorted(covered):
        yield from ("--bind", str(run / "tmp"), str(folder))
    tops = {top for path in shown for top in namespaces.tops(path, covered)}
    for top in sorted(top for top in tops if top.exists()):
        if (run / "tmp" / top.name).is_symlink():
            raise EngineFault(f"{run / 'tmp' / top.name} is a link; remove it")
        yield from ("--ro-bind", str(top.resolve()), str(top))
