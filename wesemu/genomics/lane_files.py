"""The files of a run's lanes: each may be in one lane only."""

import os
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import NamedTuple

from wesemu.errors import InvalidRequest


class NamedFile(NamedTuple):
    """The request's entry (`reads.0.first`), the caller's name for the file, and what is equal
    for the same file only."""

    entry: str
    name: str
    identity: Hashable


def file_identity(path: str | Path) -> Hashable:
    """The same for every name of one file: links, other spellings of the path."""
    try:
        status = Path(path).stat()
    except OSError:
        return os.path.realpath(path)
    return status.st_dev, status.st_ino


def check_files_differ(lanes: Iterable[Iterable[NamedFile]]) -> None:
    """Raises `InvalidRequest` for a file that is in two lanes: its reads would count twice.

    The reader of a lane sees whether both mates are the same.
    """
    seen: dict[Hashable, NamedFile] = {}
    for lane in lanes:
        files = list(lane)
        for file in files:
            if (other := seen.get(file.identity)) is not None:
                names = dict.fromkeys((other.name, file.name))
                raise InvalidRequest(
                    f"{other.entry} and {file.entry} are the same file ({' and '.join(names)}); "
                    "its reads would count twice. Name each file once.",
                    field=file.entry,
                )
        seen |= {file.identity: file for file in files}
