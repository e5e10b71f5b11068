"""Modules that the warm process has imported for the workflows that it forks runs of."""

import contextlib
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path


class Imported:
    """Imports `names`. Those that cannot be, a run will import, or say why it cannot."""

    def __init__(self, names: Sequence[str]) -> None:
        before = {*sys.modules}
        for name in names:
            with contextlib.suppress(ImportError):
                import_module(name)
        packages = {name.partition(".")[0] for name in names}
        self._stamps = {
            name: _stamp(name)
            for name in {*sys.modules} - before
            if name.partition(".")[0] in packages
        }

    def forget_changed(self) -> None:
        """Where one's file has changed since, let whoever imports any of them read it anew.

        For a run's own process: workflows and the modules that they import change together.
        """
        if any(_stamp(name) != stamp for name, stamp in self._stamps.items()):
            for name in self._stamps:
                sys.modules.pop(name, None)


def _stamp(name: str) -> tuple[int, int] | None:
    """Time of change and size of a module's file."""
    file = getattr(sys.modules.get(name), "__file__", None)
    try:
        status = Path(file or "").stat() if file else None
    except OSError:
        return None
    return (status.st_mtime_ns, status.st_size) if status else None
