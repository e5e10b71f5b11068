"""What a bundled pipeline leaves to be told: its figures, its warnings, why it failed."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from wesemu.errors import EngineFault
from wesemu.runs.model import ReadCounts, RunFailure
from wesemu.runs.ports import Results
from wesemu.runs.workspace import Workspace, read_json
from wesemu.tool_messages import without_paths


def read_results(workspace: Workspace) -> Results:
    """Exact counts of the reads. Raises EngineFault where the pipeline left none."""
    results = workspace.work / "results"
    try:
        counted: dict[str, Any] = read_json(results / "reads.json")
        counts = ReadCounts(int(counted["total_reads"]), int(counted["total_bases"]))
        return Results(counts=counts, tags=_tags(results / "summary.json"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EngineFault(f"the pipeline left no usable read counts: {error}") from error


def _tags(path: Path) -> dict[str, str]:
    """Warnings, notes and tool versions, as tags of the run."""
    if not path.is_file():
        return {}
    summary: dict[str, Any] = read_json(path)
    tags = {f"wesemu.tools.{name}": str(version) for name, version in summary["tools"].items()}
    if summary["warnings"]:
        tags["wesemu.warnings"] = " ".join(summary["warnings"])
    if summary.get("notes"):
        tags["wesemu.notes"] = " ".join(summary["notes"])
    return tags


def input_failure(work: Path, names: Callable[[], Mapping[Path, str]]) -> RunFailure | None:
    """What the pipeline says of a bad input; `names` gives the caller's, by file."""
    told = _told(work / "input_error.json")
    if told is None:
        return None
    message, file, record = str(told["message"]), told.get("file"), told.get("record")
    known = {str(path): name for path, name in names().items()}

    def in_callers_words(text: str) -> str:
        # the longest first: one path may begin as another does
        for local in sorted(known, key=len, reverse=True):
            text = text.replace(local, known[local])
        return without_paths(text, work.parents[2])

    return RunFailure(
        message=in_callers_words(message),
        hint="mend or replace the file and send the request again; nothing was published",
        file=in_callers_words(file) if isinstance(file, str) else None,
        record=record if isinstance(record, int) else None,
    )


def gpu_failure(work: Path) -> RunFailure | None:
    """What a step on the GPU says of its failure, and what helps."""
    told = _told(work / "accelerator_error.json")
    if told is None:
        return None
    hint = told.get("hint")
    return RunFailure(str(told["message"]), hint=hint if isinstance(hint, str) else None)


def _told(path: Path) -> dict[str, Any] | None:
    """A step's message; None where it left none, or something else in its place."""
    try:
        told = read_json(path)
    except (OSError, ValueError):
        return None
    return told if isinstance(told, dict) and "message" in told else None
