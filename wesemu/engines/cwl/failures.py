"""What cwltool says about a failed run: its log, because it raises nothing."""

import logging
import re

from wesemu.engines.failures import shorten
from wesemu.engines.hosted.tasks import Tasks
from wesemu.runs.model import RunFailure
from wesemu.runs.workspace import Workspace

INPUTS = ".inputs.json"
"""The job order, below `work/`; relative paths in it start from its folder."""

_NOISE = (", try again with --debug for more information", "Unexpected exception: ")
_PLACE = re.compile(r"([^\s:/]+):(\d+):\d+:")
_HINTS = {
    "DockerRequirement under 'requirements'": "the tool insists on a container and this server "
    "runs none; move DockerRequirement to hints, or give the server docker, podman or apptainer",
    "NodeJS": "JavaScript expressions need node on PATH",
    "Missing required": "give every input that has no default in workflow_params",
    "No such file": "attach the file, and name it in workflow_params as it was attached",
}


class Complaints(logging.Handler):
    """Keeps cwltool's errors, those about a task with the task."""

    def __init__(self, workspace: Workspace, tasks: Tasks) -> None:
        super().__init__(logging.ERROR)
        self._workspace = workspace
        self._tasks = tasks
        self._first: str | None = None

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.exc_info and (error := record.exc_info[1]) is not None:
            text = f"{text}: {error}"
        if str(record.msg).startswith("[job %s]") and isinstance(record.args, tuple):
            self._tasks.complain(str(record.args[0]), text.partition("Job error:")[2] or text)
        self._first = self._first or text

    def failure(self) -> RunFailure:
        """Of a run none of whose tasks is to blame."""
        text = self._first or "cwltool ended without a word"
        for noise in (*_NOISE, f"file://{self._workspace.work}/", f"{self._workspace.work}/"):
            text = text.replace(noise, "")
        place = _PLACE.search(text)
        file = place[1] if place is not None and place[1] != INPUTS else None
        hint = next((told for words, told in _HINTS.items() if words in text), None)
        if place is not None and hint is None:
            hint = f"correct {'the workflow' if file else 'workflow_params'} and submit it again"
        return RunFailure(
            message=shorten(text.replace(INPUTS, "workflow_params"), self._workspace.root),
            hint=hint,
            file=file,
            stderr="stderr.log",
        )
