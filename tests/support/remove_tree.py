"""Removal of folders in which others may write meanwhile."""

import shutil
from pathlib import Path

_ATTEMPTS = 1_000


def remove_tree(folder: Path) -> None:
    """Remove a folder as `rm -rf` does, and again while a program that runs makes files in it."""
    for _ in range(_ATTEMPTS):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
    raise OSError(f"{folder}: cannot be removed: something in it is made again and again")
