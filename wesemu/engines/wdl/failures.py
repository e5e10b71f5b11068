"""What miniwdl's errors tell the caller."""

from importlib import import_module
from pathlib import Path
from typing import Any

from wesemu.engines.failures import shorten
from wesemu.runs.model import RunFailure
from wesemu.runs.workspace import Workspace


def explain(error: BaseException, workspace: Workspace) -> RunFailure:
    """Of a run none of whose tasks is to blame by its exit status."""
    library = import_module("WDL")
    task, cause = _original(error)
    several = getattr(cause, "exceptions", None)
    if several:
        cause = several[0]
    place = getattr(cause, "pos", None)
    name = Path(place.uri).name if place is not None and place.uri else None
    where = f" in {name}, line {place.line}" if name and place is not None else ""
    text = str(cause)
    if cause.__cause__ is not None and isinstance(cause, library.Error.ImportError):
        text = f"{text}: {cause.__cause__}"
    text = shorten(text, workspace.root).replace("work/", "")
    text = text.partition(" Expected one of")[0]
    kind = "" if isinstance(cause, library.Error.InputError) else type(cause).__name__
    title = f"task {task}" if task else f"{kind}{where}".strip()
    return RunFailure(
        message=f"{title}: {text}" if title else text,
        hint=_hint(library, cause, name),
        file=name,
        task=task,
        stderr="stderr.log",
    )


def _original(error: BaseException) -> tuple[str | None, BaseException]:
    """The task that a failure came out of, if any, and the first failure itself."""
    library = import_module("WDL")
    task: str | None = None
    while isinstance(error, library.runtime.RunFailed) and error.__cause__ is not None:
        failed: Any = error
        if isinstance(failed.exe, library.Task):
            task = str(failed.run_id).removeprefix("call-")
        error = error.__cause__
    return task, error


def _hint(library: Any, cause: BaseException, file: str | None) -> str | None:
    if isinstance(cause, library.Error.InputError):
        return "correct workflow_params, or attach what they name"
    if isinstance(cause, library.runtime.DownloadFailed):
        return "attach the file instead of giving its URL"
    return "correct the workflow and submit it again" if file else None
