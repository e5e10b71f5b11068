"""cwltool's output object, as files in `work/out/`."""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from wesemu.engines.hosted.results import NAME, Kept, Results
from wesemu.runs.model import JsonValue
from wesemu.runs.workspace import Workspace

_URL_SCHEMES = ("http", "https")


def keep_outputs(workspace: Workspace, outputs: Mapping[str, Any]) -> Results:
    """Keep all files of the object, and write outputs.json: the object with paths.

    Every File has its size and SHA-1. A file that differs from what cwltool says of it is a
    problem of the results.
    """
    results = Results(workspace)
    _Stage(results).close(outputs)
    return results


class _Stage:
    def __init__(self, results: Results) -> None:
        self._results = results
        self._taken: dict[PurePosixPath, str] = {PurePosixPath(NAME): ""}
        self._kept: dict[PurePosixPath, Kept] = {}
        self.files: list[str] = []

    def close(self, outputs: Mapping[str, Any]) -> None:
        self._results.close(self._value(outputs, PurePosixPath()))

    def _value(self, value: Any, folder: PurePosixPath) -> JsonValue:
        match value:
            case {"class": "File"}:
                return self._file(value, folder)
            case {"class": "Directory"}:
                return self._directory(value, folder)
            case Mapping():
                return {str(key): self._value(item, folder) for key, item in value.items()}
            case list():
                return [self._value(item, folder) for item in value]
        known: JsonValue = value
        return known

    def _file(self, file: Mapping[str, Any], folder: PurePosixPath) -> JsonValue:
        name = self._name(folder, file)
        kept = self._kept.get(name) or self._keep(file, name)
        if kept is not None:
            self._kept[name] = kept
            self._verify(file, kept)
        told = self._described(file, name, kept)
        if file.get("secondaryFiles"):
            told["secondaryFiles"] = self._value(file["secondaryFiles"], folder)
        return told

    def _keep(self, file: Mapping[str, Any], name: PurePosixPath) -> Kept | None:
        location, path = str(file.get("location", "")), Path(name)
        if (source := _local(location)) is not None:
            return self._results.keep(source, path, digest=True)
        if "contents" in file:
            return self._results.write(str(file["contents"]), path, digest=True)
        if urlsplit(location).scheme in _URL_SCHEMES:
            return self._fetch(location, path)
        self._results.refuse(path, f"its location {location[:200]!r} cannot be read")
        return None

    def _fetch(self, url: str, name: Path) -> Kept | None:
        """A file that the workflow passes through by its URL; fetched as cwltool fetches inputs."""
        try:
            fetched, _ = import_module("cwltool.utils").downloadHttpFile(url)
        except Exception as error:
            self._results.refuse(name, f"{url[:200]} cannot be fetched: {error}")
            return None
        try:
            return self._results.keep(Path(fetched), name, digest=True)
        finally:
            Path(fetched).unlink()

    def _verify(self, file: Mapping[str, Any], kept: Kept) -> None:
        size, checksum = file.get("size"), str(file.get("checksum", ""))
        algorithm, _, digest = checksum.partition("$")
        if isinstance(size, int) and size != kept.size:
            said = f"its size is {kept.size} bytes, and cwltool says {size}"
            self._results.refuse(kept.name, said)
        elif algorithm == "sha1" and digest != kept.sha1:
            said = f"its SHA-1 is {kept.sha1}, and cwltool says {digest}"
            self._results.refuse(kept.name, said)

    def _directory(self, directory: Mapping[str, Any], folder: PurePosixPath) -> JsonValue:
        name = self._name(folder, directory)
        source = _local(str(directory.get("location", "")))
        if source is not None and source.is_dir():
            for kept in self._results.keep_folder(source, Path(name), digest=True):
                self._kept[PurePosixPath(kept.name)] = kept
            listing = self._listing(name)
        else:
            (self._results.folder / name).mkdir(parents=True, exist_ok=True)
            listing = [self._value(item, name) for item in directory.get("listing", ())]
        told = self._described(directory, name, None)
        told["listing"] = listing
        return told

    def _listing(self, folder: PurePosixPath) -> list[JsonValue]:
        """What a kept folder has on the disk."""
        found: list[JsonValue] = []
        for path in sorted((self._results.folder / folder).iterdir()):
            name = folder / path.name
            if path.is_dir():
                inner = self._described({"class": "Directory"}, name, None)
                found.append(inner | {"listing": self._listing(name)})
            elif (kept := self._kept.get(name)) is not None:
                found.append(self._described({"class": "File"}, name, kept))
        return found

    def _described(
        self, item: Mapping[str, Any], name: PurePosixPath, kept: Kept | None
    ) -> dict[str, JsonValue]:
        told: dict[str, JsonValue] = {key: item[key] for key in ("class", "format") if key in item}
        if kept is not None:
            told |= {"size": kept.size, "checksum": f"sha1${kept.sha1}"}
        return told | {"path": str(name), "basename": name.name}

    def _name(self, folder: PurePosixPath, item: Mapping[str, Any]) -> PurePosixPath:
        """The item's name in `folder`. The same file named again keeps its name; another file of
        that name becomes `base_2`, as with cwltool."""
        base, identity = _basename(item), _identity(item)
        name, number = folder / base, 1
        while self._taken.get(name, identity) != identity:
            number += 1
            stem, suffix = PurePosixPath(base).stem, PurePosixPath(base).suffix
            name = folder / f"{stem}_{number}{suffix}"
        self._taken[name] = identity
        return name


def _identity(item: Mapping[str, Any]) -> str:
    """What makes two items of an output object the same file or folder."""
    location = item.get("location")
    if location:
        local = _local(str(location))
        return str(location) if local is None else str(local.resolve())
    return f"contents {item['contents']}" if "contents" in item else f"item {id(item)}"


def _basename(item: Mapping[str, Any]) -> str:
    base = item.get("basename")
    if not base:
        location = str(item.get("location", ""))
        local = _local(location)
        base = local.name if local is not None else unquote(urlsplit(location).path)
    return PurePosixPath(str(base)).name or "output"


def _local(location: str) -> Path | None:
    """cwltool's locations of local files are `file:` URLs, and plain paths of files that a tool
    stages and passes through."""
    if location.startswith("/"):
        return Path(location)
    parts = urlsplit(location)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None
