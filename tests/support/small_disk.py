"""A small file system, which fills up soon, and the filling of it."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

_BLOCK = 4096


@contextlib.contextmanager
def small_disk(folder: Path, size: str = "32m") -> Iterator[Path]:
    """Mount a file system of `size` at the new folder `folder`; skip the test without the right."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def make_read_only(folder: Path) -> None:
    """Remount the file system at `folder`, on which no file is open for writing."""
    subprocess.run(["mount", "-o", "remount,ro", folder], check=True)


def fill(path: Path, *, leave: int = 0) -> None:
    """Write to the file `path` until the disk has only `leave` blocks of 4 KiB free."""
    with path.open("ab", buffering=0) as file:
        with contextlib.suppress(OSError):
            while file.write(bytes(_BLOCK)):
                continue
        file.truncate(file.tell() - leave * _BLOCK)
