"""The files of a run's outputs, as its engine names them: files, and folders of files."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from wesemu.runs.ports import Unpublished
from wesemu.runs.publishable import is_own, obstacle, shown
from wesemu.runs.workspace import Workspace

_PRIVATE = frozenset({".snakemake_timestamp"})
"""Files that an engine writes into folders for itself."""


class OutputFiles:
    """Collects outputs below `work/`. Each file is listed once, in the order of its first naming.

    What exists and cannot be published becomes a problem.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._files = dict[str, None]()
        self._problems = dict[str, Unpublished]()

    @property
    def files(self) -> list[str]:
        return list(self._files)

    @property
    def problems(self) -> list[Unpublished]:
        return list(self._problems.values())

    def add(self, name: str) -> None:
        """A path relative to `work/`. A folder stands for its files; what does not exist is
        ignored."""
        path = self._workspace.work / name
        if not os.path.lexists(path):
            return
        if path.is_dir() and is_own(self._workspace, path.resolve()):
            for inner in walk(path, lambda real: is_own(self._workspace, real)):
                if inner.is_symlink() or not inner.is_dir():
                    self._add(inner, declared=False)
        else:
            self._add(path, declared=True)

    def _add(self, path: Path, *, declared: bool) -> None:
        name = os.path.relpath(path, self._workspace.work)
        if name.startswith("../"):  # an absolute path, which the workflow chose deliberately
            self._problems[name] = Unpublished(
                shown(str(path)), "it lies elsewhere", declared=False
            )
            return
        reason = obstacle(self._workspace, path)
        if reason is None:
            self._files[name] = None
        elif declared or name not in self._problems:
            self._problems[name] = Unpublished(shown(name), reason, declared)


def walk(folder: Path, is_followed: Callable[[Path], bool]) -> Iterator[Path]:
    """All files below a folder, and folders that are empty, sorted.

    A link to another folder is followed if `is_followed` says so of its target; otherwise, and if
    it leads to a folder above itself, the link is returned as a file is.
    """
    return _walk(folder, (folder.resolve(),), is_followed)


def _walk(
    folder: Path, above: tuple[Path, ...], is_followed: Callable[[Path], bool]
) -> Iterator[Path]:
    inside = sorted(folder.iterdir())
    if not inside and not folder.is_symlink():
        yield folder
    for path in inside:
        if path.name in _PRIVATE:
            continue
        if not path.is_dir():
            yield path
            continue
        inner = path.resolve()
        returns = any(one.is_relative_to(inner) for one in above)
        if path.is_symlink() and (returns or not is_followed(inner)):
            yield path
        else:
            yield from _walk(path, (*above, inner), is_followed)
