"""What clients send to start a run, and how they show a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path, PurePosixPath
from typing import TypeAlias

from wesemu.client.buckets import encoded
from wesemu.client.transport import ClientError
from wesemu.client.wes import Counts, Log, RunDetail, SlaFigures
from wesemu.runs.model import JsonObject, JsonValue, RunState

# --- submissions ---

Lanes: TypeAlias = Sequence[str] | Sequence[Mapping[str, JsonValue]]
"""The two files of a lane, or lanes as in docs/pipelines.md."""

Files: TypeAlias = Mapping[str, bytes | str | Path]
"""Attachments by name: bytes, text, or a file to read."""

_TYPES = {"SMK": ("Snakefile", "9"), "CWL": ("main.cwl", "v1.2"), "WDL": ("main.wdl", "1.1")}
_SUFFIXES = {".cwl": "CWL", ".wdl": "WDL"}
_SNAKEFILES = ("workflow/Snakefile", "Snakefile")
_MATES = ("first", "second")
_OUTPUTS = ("bam", "vcf", "gvcf")


@dataclass(frozen=True, slots=True)
class Submission:
    """A request of RunWorkflow. `attachments` are pairs of a name and a file or its content."""

    workflow_url: str
    params: JsonObject
    workflow_type: str = "SMK"
    workflow_type_version: str = "9"
    attachments: tuple[tuple[str, Path | bytes], ...] = ()


def pipeline(
    name: str, reads: Lanes, reference: str, bucket: str | None, params: Mapping[str, JsonValue]
) -> Submission:
    """Return the submission of a bundled pipeline. Relative names are keys in `bucket`.

    Raise ValueError unless `reads` are two names or lanes.
    """

    def locate(value: JsonValue) -> JsonValue:
        if bucket is None or not isinstance(value, str) or "://" in value:
            return value
        return f"oss://{bucket}/{value}"

    mates = [each for each in reads if isinstance(each, str)]
    given = [each for each in reads if not isinstance(each, str)]
    if mates and (given or len(mates) != len(_MATES)):
        raise ValueError(f"reads are two names, or a list of lanes, not {reads!r}")
    if mates:
        given.append(dict(zip(_MATES, mates, strict=True)))
    lanes: list[JsonValue] = [
        {key: locate(value) if key in _MATES else value for key, value in lane.items()}
        for lane in given
    ]
    located = {key: locate(value) if key in _OUTPUTS else value for key, value in params.items()}
    return Submission(name, {"reads": lanes, "reference": reference, **located})


def workflow(
    source: str | Path,
    params: JsonObject,
    files: Files,
    workflow_type: str | None,
    workflow_type_version: str | None,
) -> Submission:
    """Return the submission of a workflow: its text (several lines), file, folder or URL.

    Reads the names of the files in a folder. Raise FileNotFoundError if there is no workflow.
    """
    attachments = [(name, encoded(content)) for name, content in files.items()]
    url = str(source)
    if isinstance(source, str) and "\n" in source:
        kind = workflow_type or "SMK"
        url = _TYPES.get(kind, _TYPES["SMK"])[0]
        attachments.insert(0, (url, source.encode()))
    elif "://" not in url:
        url, own = _local(Path(source))
        attachments = own + attachments
    kind = workflow_type or _SUFFIXES.get(PurePosixPath(url).suffix.lower(), "SMK")
    version = workflow_type_version or _TYPES.get(kind, ("", ""))[1]
    return Submission(url, params, kind, version, tuple(attachments))


def _local(path: Path) -> tuple[str, list[tuple[str, Path | bytes]]]:
    """Return the name of the workflow in the file or folder `path`, and its attachments."""
    if path.is_file():
        return path.name, [(path.name, path)]
    found = next((name for name in _SNAKEFILES if (path / name).is_file()), None)
    if found is None:
        raise FileNotFoundError(
            f"{path} is neither a workflow file nor a folder with {' or '.join(_SNAKEFILES)}"
        )
    names = (each.relative_to(path) for each in sorted(path.rglob("*")) if each.is_file())
    visible = (name for name in names if not any(part.startswith(".") for part in name.parts))
    return found, [(name.as_posix(), path / name) for name in visible]


# --- runs ---


class RunView:
    """The properties of a run, from the last answer of the server: `detail`."""

    def __init__(self, detail: RunDetail) -> None:
        self.detail = detail

    @property
    def id(self) -> str:
        return self.detail.id

    @property
    def state(self) -> RunState:
        return self.detail.state

    @property
    def ended(self) -> bool:
        return self.detail.state.ended

    @property
    def error(self) -> str | None:
        """The reason of a failed run, in one sentence."""
        return self.detail.error

    @property
    def tags(self) -> Mapping[str, str]:
        return self.detail.tags

    @property
    def tasks(self) -> tuple[Log, ...]:
        """The attempts of tasks, in the order of their starts."""
        return self.detail.tasks

    @property
    def counts(self) -> Counts | None:
        """The counted reads; None until then, and for users' own workflows."""
        return self.detail.counts

    @property
    def sla(self) -> SlaFigures | None:
        """The service level; None until the reads are counted, and without a promise."""
        return self.detail.sla

    def raise_for_state(self) -> None:
        """Raise ClientError if the run has ended without success."""
        if self.ended and self.state is not RunState.COMPLETE:
            reason = f": {self.error}" if self.error else ""
            raise ClientError(f"the run {self.id} ended as {self.state}{reason}")

    def has_changed(self, before: RunDetail | None) -> bool:
        """Return whether state or tasks differ from those of `before`."""
        now = self.detail
        return before is None or (before.state, before.tasks) != (now.state, now.tasks)

    def has_not_ended(self, seconds: float) -> TimeoutError:
        """Return the error of a wait that lasted `seconds`."""
        return TimeoutError(
            f"the run {self.id} has not ended after {seconds} s: {self.state}, "
            f"{self.detail.tasks_done} of {len(self.tasks)} tasks are done"
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} {self.state}>"

    def _repr_html_(self) -> str:
        """Return a table of the run for notebooks."""
        rows = [("state", self.state.value), ("error", self.error or "")]
        rows += [("task", f"{task.name}: {_task_state(task)}") for task in self.tasks]
        rows += [
            ("output", f"{name}: {output.url} ({output.size:,} bytes)")
            for name, output in self.detail.outputs.items()
        ]
        if self.counts is not None:
            rows.append(("reads", f"{self.counts.reads:,}"))
        if self.sla is not None:
            rows.append(("service level", f"{self.sla.minutes} min, {self.sla.price_cny} CNY"))
        cells = "".join(
            f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>"
            for name, value in rows
            if value
        )
        return f"<table><caption>{escape(self.id)}</caption>{cells}</table>"


def _task_state(task: Log) -> str:
    if task.ended is None:
        return "running"
    return "ended" if not task.exit_code else f"exit status {task.exit_code}"
