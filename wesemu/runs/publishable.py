"""Which files below a run directory can be published, and why another one cannot."""

import os
from pathlib import Path

from wesemu.runs.workspace import Workspace


def obstacle(workspace: Workspace, path: Path) -> str | None:
    """Why the file at `path` cannot be published; None if it can. Blocks on the disk.

    A link is published as the file it leads to, if that file is one of the run: it lies in
    `work/` or among the inputs that were fetched for the run.
    """
    if not is_utf8(path):
        return "its name is not UTF-8"
    try:
        real = path.resolve(strict=True)
    except FileNotFoundError:
        return "it is a link to a file that does not exist" if path.is_symlink() else "it is gone"
    except (OSError, RuntimeError):  # RuntimeError: a circle of links, before Python 3.13
        return "it is a link that leads to itself"
    if not is_own(workspace, real):
        return "it is a link that leads out of the run's directory"
    if real.is_dir():
        return "it is a link to a folder that contains it"
    if not real.is_file():
        return "it is not a regular file"
    if not os.access(real, os.R_OK):
        return "it may not be read"
    return None


def is_own(workspace: Workspace, real: Path) -> bool:
    """Whether a path without links lies in `work/` or among the run's inputs."""
    return any(
        real.is_relative_to(folder.resolve()) for folder in (workspace.work, workspace.inputs)
    )


def is_utf8(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def shown(path: str) -> str:
    r"""A path as text; a byte that is not UTF-8 becomes `\xff`."""
    return os.fsencode(path).decode(errors="backslashreplace")
