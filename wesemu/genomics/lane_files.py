"""The files of a run's lanes: each may be read once only."""

import os
from collections.abc import Hashable, Iterable
from pathlib import Path

from wesemu.errors import InvalidRequest


def file_identity(path: str | Path) -> Hashable:
    """The same for every name of one file: links, other spellings of the path."""
    try:
        status = Path(path).stat()
    except OSError:
        return os.path.realpath(path)
    return status.st_dev, status.st_ino


def check_files_differ(files: Iterable[tuple[str, str, Hashable]]) -> None:
    """Raises `InvalidRequest` for a file that is named twice: its reads would count twice.

    `files` are the entry (`reads.0.first`), the caller's name of the file, and its identity.
    """
    seen: dict[Hashable, tuple[str, str]] = {}
    for entry, name, identity in files:
        if identity in seen:
            other, other_name = seen[identity]
            names = name if name == other_name else f"{other_name} and {name}"
            raise InvalidRequest(
                f"{other} and {entry} are the same file ({names}); its reads would count twice. "
                "Name each file once.",
                field=entry,
            )
        seen[identity] = entry, name
