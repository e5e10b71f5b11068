"""What a run leaves in `work/out/`: the files of its outputs, and outputs.json that names them."""

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from wesemu.engines.outputs import walk
from wesemu.runs.model import JsonValue
from wesemu.runs.ports import Unpublished
from wesemu.runs.publishable import is_utf8, obstacle, shown
from wesemu.runs.workspace import Workspace

FOLDER = "out"
NAME = "outputs.json"


@dataclass(frozen=True, slots=True)
class Kept:
    """A file of an output: `name` below the folder, size in bytes, SHA-1 in hexadecimal if it was
    asked for."""

    name: Path
    size: int
    sha1: str | None = None


class Results:
    """Collects the outputs of one run. Files are hard links where they can be.

    What cannot be kept becomes a problem, and fails the run.
    """

    def __init__(self, workspace: Workspace) -> None:
        self.folder = workspace.work / FOLDER
        self.problems = list[Unpublished]()
        self._workspace = workspace
        self._root = workspace.root.resolve()
        self._files = dict[str, None]()

    def keep(self, source: Path, name: Path, *, digest: bool = False) -> Kept | None:
        """Put a file at `name` below the folder; what lay there before is replaced.

        None for a file that cannot be published.
        """
        reason = self._obstacle(source)
        if reason is None and not is_utf8(name):
            reason = "its name is not UTF-8"
        if reason is not None:
            self.refuse(name, reason)
            return None
        target = self._make_room(name)
        real = source.resolve()
        if not real.is_relative_to(self._root):
            shutil.copyfile(real, target)  # not ours: what is published must not change with it
        else:
            try:
                os.link(real, target)
            except OSError:
                shutil.copyfile(real, target)
        return self._describe(name, digest=digest)

    def _obstacle(self, source: Path) -> str | None:
        """The caller may name a file outside the run as an input, and pass it through. A link
        that a tool has made must not lead out."""
        if os.path.normpath(source).startswith(f"{self._workspace.root}/"):
            return obstacle(self._workspace, source)
        return None if source.is_file() else "it does not exist"

    def keep_folder(self, source: Path, name: Path, *, digest: bool = False) -> list[Kept]:
        """Put the files of a folder below `name`, links to other folders of the run followed."""
        (self.folder / name).mkdir(parents=True, exist_ok=True)
        kept: list[Kept | None] = []
        for path in walk(source, lambda real: real.is_relative_to(self._root)):
            inner = name / path.relative_to(source)
            if path.is_dir() and not path.is_symlink():
                (self.folder / inner).mkdir(parents=True, exist_ok=True)
            else:
                kept.append(self.keep(path, inner, digest=digest))
        return [one for one in kept if one is not None]

    def write(self, text: str, name: Path, *, digest: bool = False) -> Kept:
        self._make_room(name).write_text(text, encoding="utf-8", newline="")
        return self._describe(name, digest=digest)

    def refuse(self, name: Path, reason: str) -> None:
        """Record an output that cannot be published."""
        self.problems.append(Unpublished(shown(f"{FOLDER}/{name}"), reason))

    def _describe(self, name: Path, *, digest: bool) -> Kept:
        with (self.folder / name).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            sha1 = hashlib.file_digest(file, "sha1").hexdigest() if digest else None
        return Kept(name, size, sha1)

    def _make_room(self, name: Path) -> Path:
        target = self.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        self._files[f"{FOLDER}/{name}"] = None
        return target

    @property
    def files(self) -> list[str]:
        """All files that were kept, below `work/`."""
        return list(self._files)

    def close(self, outputs: JsonValue) -> None:
        """Write outputs.json, in which paths are relative to it."""
        text = json.dumps(outputs, indent=2, ensure_ascii=False)
        self.write(f"{text}\n", Path(NAME))
