"""What to tell the caller of a failed run: one sentence, a hint, and the way to the evidence."""

import re
import traceback
from pathlib import Path
from tokenize import TokenError

from wesemu.engines.failures import LINE_LIMIT, hint, last_words, shorten
from wesemu.runs.model import RunFailure
from wesemu.runs.workspace import Workspace
from wesemu.tool_messages import failure_reason

_INCOMPLETE = "some output files are missing"
_MISSING_FILE = re.compile(r"(?:^|: ?)([^\n:]+?) \(missing locally", re.MULTILINE)
_RUN_ERROR = re.compile(
    r'^RuleException:\n(?P<kind>\w+) in file "(?P<file>[^"\n]+)", line (?P<line>\d+):\n'
    r"(?P<text>.*)",
    re.MULTILINE,
)


def task_failure(
    name: str,
    wildcards: str,
    exit_code: int | None,
    complaint: str,
    root: Path,
    logs: list[str],
) -> RunFailure:
    """`logs` are paths below `root`, the likeliest to tell the reason first; `complaint` is
    Snakemake's own message."""
    told = next((log for log in logs if last_words(root / log)), logs[0] if logs else None)
    words = last_words(root / told) if told else ""
    title = f"rule {name}" + (f" ({wildcards})" if wildcards else "")
    advice = hint(exit_code, words)
    if _INCOMPLETE in complaint:
        files = ", ".join(_MISSING_FILE.findall(complaint))
        message = f"{title} ended well, but did not make {shorten(files, root)}"
        advice = "have the command write what output: names, relative to the working directory"
    elif exit_code:
        reason = shorten(_reason(words), root)[:LINE_LIMIT]
        message = f"{title} ended with exit status {exit_code}" + (f": {reason}" if reason else "")
    else:
        reason = complaint or (_reason(words) if _RUN_ERROR.search(words) else "")
        message = f"{title} failed: {shorten(reason, root) or 'see its standard error'}"
    return RunFailure(
        message=message,
        hint=advice,
        task=name,
        exit_code=exit_code,
        stderr=told,
    )


def _reason(words: str) -> str:
    """The line of a log that tells why: a tool's, or the error of a `run:` block, which Snakemake
    follows up with words of its own; of a failed tool in there, what that said."""
    error = _RUN_ERROR.search(words)
    told = words[: error.start()].rstrip() if error else words
    if error is None or (error["kind"] == "CalledProcessError" and told):
        return failure_reason(told)
    return f"{error['kind']} in {Path(error['file']).name}, line {error['line']}: {error['text']}"


def workflow_failure(
    error: BaseException, file: str | None, line: int | None, root: Path
) -> RunFailure:
    """A workflow that could not be planned; `file` and `line` in the caller's Snakefile."""
    name = Path(file).name if file else None
    place = f" in {name}, line {line}" if name and line else ""
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    if isinstance(error.__context__, TokenError):  # whose last bracket Snakemake takes off
        text = error.__context__.args[0]
    kind = type(error).__name__
    text = shorten(text, root)
    return RunFailure(
        message=f"{kind}{place}: {text}" if text else f"{kind}{place}",
        hint=hint(None, text) or ("correct the workflow and submit it again" if name else None),
        file=name,
        stderr="stderr.log",
    )


def deepest_frame(error: BaseException, files: set[str]) -> tuple[str, int] | None:
    """The last place in one of `files` that an error came through."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename in files and frame.lineno is not None:
            return frame.filename, frame.lineno
    return None


def relative_logs(workspace: Workspace, logs: tuple[str, ...]) -> list[str]:
    """A rule's log files (below `work/`) as paths below the run directory."""
    return [f"{workspace.work.name}/{log}" for log in logs if not Path(log).is_absolute()]
