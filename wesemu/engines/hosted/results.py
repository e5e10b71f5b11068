"""What a run leaves in `work/out/`: the files of its outputs, and outputs.json that names them."""

import json
import os
import shutil
from pathlib import Path

from wesemu.runs.model import JsonValue
from wesemu.runs.workspace import Workspace

FOLDER = "out"
NAME = "outputs.json"


class Results:
    """Collects the outputs of one run. Files are hard links where they can be."""

    def __init__(self, workspace: Workspace) -> None:
        self.folder = workspace.work / FOLDER
        self._workspace = workspace
        self._files = list[str]()

    def keep(self, source: Path, name: Path) -> None:
        """Put a file at `name` below the folder; what lay there before is replaced."""
        target = self._make_room(name)
        real = source.resolve()
        if real.is_relative_to(self._workspace.root.resolve()):
            try:
                os.link(real, target)
            except OSError:
                shutil.copyfile(real, target)
        else:
            shutil.copyfile(real, target)  # not ours: what is published must not change with it

    def write(self, text: str, name: Path) -> None:
        self._make_room(name).write_text(text)

    def _make_room(self, name: Path) -> Path:
        target = self.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        self._files.append(f"{FOLDER}/{name}")
        return target

    def close(self, outputs: JsonValue) -> list[str]:
        """Write outputs.json, in which paths are relative to it; all files, below `work/`."""
        text = json.dumps(outputs, indent=2, ensure_ascii=False)
        self.write(f"{text}\n", Path(NAME))
        return self._files
