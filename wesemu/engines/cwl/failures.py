"""What cwltool says about a failed run: its log, because it raises nothing."""

import logging
import re

from wesemu.engines.failures import shorten
from wesemu.engines.hosted.tasks import Tasks
from wesemu.runs.model import RunFailure
from wesemu.runs.publishable import is_utf8, shown
from wesemu.runs.workspace import Workspace

INPUTS = ".inputs.json"
"""The job order, below `work/`; relative paths in it start from its folder."""

_NOISE = (", try again with --debug for more information", "Unexpected exception: ")
_PLACE = re.compile(r"([^\s:/]+):(\d+):\d+:")
_MARGIN = re.compile(r"^[^\s:/]+:\d+:\d+: ?", re.MULTILINE)
_EXPRESSION = re.compile(
    r"(?:Failed to evaluate expression:\s*)?"
    r"Expression evaluation error:.*stderr was: '(?P<stderr>.*)'",
    re.DOTALL,
)
_JS_ERROR = re.compile(r"(?:Uncaught )?[A-Za-z]*Error\b.*")
_FAILED_EXPRESSION = "Failed to evaluate expression"
_HINTS = {
    "DockerRequirement under 'requirements'": "the tool insists on a container and this server "
    "runs none; move DockerRequirement to hints, or give the server docker, podman or apptainer",
    "NodeJS": "JavaScript expressions need node on PATH",
    "Missing required": "give every input that has no default in workflow_params",
    "No such file": "attach the file, and name it in workflow_params as it was attached",
}


def plain_expression_error(text: str) -> str:
    """cwltool's text, with the message of a failing expression instead of its whole script."""
    lines = _MARGIN.sub("", text)
    found = _EXPRESSION.search(lines)
    if found is None:
        return text
    told = [line.strip() for line in found["stderr"].replace("\\n", "\n").splitlines()]
    error = next((line for line in told if _JS_ERROR.match(line)), None)
    message = error or next((line for line in reversed(told) if line), "see stderr")
    place = _PLACE.search(text)
    where = f"{place[0]} " if place is not None else ""
    before = lines[: found.start()].strip()
    before = f"{before} " if before and place is None else ""
    return f"{before}{where}the expression failed: {message}"


class Complaints(logging.Handler):
    """Keeps cwltool's errors, those about a task with the task. That an expression of an
    ExpressionTool fails is a warning of cwltool's."""

    def __init__(self, workspace: Workspace, tasks: Tasks) -> None:
        super().__init__(logging.WARNING)
        self._workspace = workspace
        self._tasks = tasks
        self._first: str | None = None

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno < logging.ERROR and not str(record.msg).startswith(_FAILED_EXPRESSION):
            return
        text = record.getMessage()
        if record.exc_info and (error := record.exc_info[1]) is not None:
            text = f"{text}: {error}"
        if str(record.msg).startswith("[job %s]") and isinstance(record.args, tuple):
            complaint = text.partition("Job error:")[2] or text
            self._tasks.complain(str(record.args[0]), plain_expression_error(complaint))
        self._first = self._first or text

    def failure(self) -> RunFailure:
        """Of a run none of whose tasks is to blame."""
        text = plain_expression_error(self._first or "cwltool ended without a word")
        for noise in (*_NOISE, f"file://{self._workspace.work}/", f"{self._workspace.work}/"):
            text = text.replace(noise, "")
        if "surrogates not allowed" in text and (name := self._broken_name()) is not None:
            text = f"the output {name} cannot be published: its name is not UTF-8"
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

    def _broken_name(self) -> str | None:
        """A file of a tool whose name is not UTF-8; cwltool says only that there is one."""
        for folder in sorted((self._workspace.work / ".cwl" / "cache").glob("*")):
            for path in folder.rglob("*"):
                if not is_utf8(path):
                    return shown(str(path.relative_to(folder)))
        return None
