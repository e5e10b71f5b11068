"""The files of a crate, as they are sent. Needs ro-crate-py."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from rocrate.model.computationalworkflow import ComputationalWorkflow
from rocrate.model.file import File

from wesemu.provenance.facts import struck_content


class StruckFile(io.BytesIO):
    """A file without its credentials, in memory while it is sent only."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path: Path | None = path

    def read(self, size: int | None = -1, /) -> bytes:
        path, self._path = self._path, None
        return b"" if path is None else struck_content(path) or b""


class _ByItsName:
    """ro-crate-py sends empty files, and files from memory, under their quoted names."""

    id: str

    def stream(self, *arguments: Any, **options: Any) -> Iterator[tuple[str, bytes]]:
        file: Any = super()
        for _, chunk in file.stream(*arguments, **options):
            yield unquote(self.id), chunk


class CrateFile(_ByItsName, File):  # type: ignore[misc]
    pass


class CrateWorkflow(_ByItsName, ComputationalWorkflow):  # type: ignore[misc]
    pass
