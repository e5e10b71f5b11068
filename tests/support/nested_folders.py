"""Folders in folders, deeper than Python's stack and than the longest path of the system."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wesemu.runs.maintenance import delete

_LEVELS = 1500


@contextmanager
def nested_folders(top: Path) -> Iterator[None]:
    """Make `top` as a workflow does that copies a folder into itself. Delete it at the end."""
    top.mkdir(parents=True)
    folder = os.open(top, os.O_RDONLY)
    for _ in range(_LEVELS):
        os.mkdir("copy", dir_fd=folder)
        os.close(os.open("file", os.O_CREAT, dir_fd=folder))
        inner = os.open("copy", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = inner
    os.close(folder)
    try:
        yield
    finally:
        delete(top)
