"""cwltool's output object, as files in `work/out/`."""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from wesemu.engines.hosted.results import NAME, Results
from wesemu.runs.model import JsonValue
from wesemu.runs.workspace import Workspace


def keep_outputs(workspace: Workspace, outputs: Mapping[str, Any]) -> list[str]:
    """All files of the object, below `work/`, and outputs.json: the object with paths."""
    stage = _Stage(Results(workspace))
    return stage.results.close(stage.value(outputs, PurePosixPath()))


class _Stage:
    def __init__(self, results: Results) -> None:
        self.results = results
        self._taken: dict[PurePosixPath, str | None] = {PurePosixPath(NAME): None}

    def value(self, value: Any, folder: PurePosixPath) -> JsonValue:
        match value:
            case {"class": "File"}:
                return self._file(value, folder)
            case {"class": "Directory"}:
                return self._directory(value, folder)
            case Mapping():
                return {str(key): self.value(item, folder) for key, item in value.items()}
            case list():
                return [self.value(item, folder) for item in value]
        known: JsonValue = value
        return known

    def _file(self, file: Mapping[str, Any], folder: PurePosixPath) -> JsonValue:
        location = file.get("location")
        name = self._name(folder, _basename(file), location)
        if (source := _local(location)) is not None:
            self.results.keep(source, Path(name))
        else:
            self.results.write(str(file.get("contents", "")), Path(name))
        return self._described(file, name, folder)

    def _directory(self, directory: Mapping[str, Any], folder: PurePosixPath) -> JsonValue:
        location = directory.get("location")
        name = self._name(folder, _basename(directory), location)
        source = _local(location)
        if source is not None and source.is_dir():
            for path in sorted(source.rglob("*")):
                if path.is_file():
                    self.results.keep(path, Path(name) / path.relative_to(source))
        else:
            for item in directory.get("listing", ()):
                self.value(item, name)
        return self._described(directory, name, folder)

    def _described(
        self, item: Mapping[str, Any], name: PurePosixPath, folder: PurePosixPath
    ) -> dict[str, JsonValue]:
        kept = ("class", "size", "checksum", "format")
        told: dict[str, JsonValue] = {key: item[key] for key in kept if key in item}
        told |= {"path": str(name), "basename": name.name}
        if item.get("secondaryFiles"):
            told["secondaryFiles"] = self.value(item["secondaryFiles"], folder)
        return told

    def _name(self, folder: PurePosixPath, base: str, location: str | None) -> PurePosixPath:
        """`base` in `folder`; another file of that name becomes `base_2`, as with cwltool."""
        name, number = folder / base, 1
        while name in self._taken and (location is None or self._taken[name] != location):
            number += 1
            stem, suffix = PurePosixPath(base).stem, PurePosixPath(base).suffix
            name = folder / f"{stem}_{number}{suffix}"
        self._taken[name] = location
        return name


def _basename(item: Mapping[str, Any]) -> str:
    base = item.get("basename") or PurePosixPath(str(item.get("location", ""))).name
    return PurePosixPath(str(base)).name or "output"


def _local(location: str | None) -> Path | None:
    parts = urlsplit(location or "")
    return Path(unquote(parts.path)) if parts.scheme == "file" else None
