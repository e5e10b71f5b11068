"""What to tell the caller of a failed run: one sentence, a hint, and the way to the evidence."""

import re
import traceback
from pathlib import Path

from wesemu.engines.slurm.hints import slurm_hint
from wesemu.runs.model import RunFailure

_TAIL_BYTES = 4096
_LINE_LIMIT = 240
_MISSING_TOOL = re.compile(r"(?:^|: )([^\s:]+): (?:command )?not found$", re.MULTILINE)
_QUOTED_PATH = re.compile(r'"/(?:[^"\n]*/)?([^"/\n]+)"')
_FULL_DISK = "No space left on device"
_HINTS = {
    124: "it ran into a time limit",
    126: "the tool was found but cannot be executed; check its permissions",
    127: "a tool was not found; install it or correct PATH",
    134: "the tool aborted (SIGABRT)",
    137: "it was killed, most often because memory ran out; ask for more memory or fewer threads",
    139: "the tool crashed (segmentation fault)",
    143: "it was ended from outside (SIGTERM)",
}


def last_words(path: Path) -> str:
    """The end of a log file, "" where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            return file.read().decode(errors="replace").strip()
    except OSError:
        return ""


def hint(exit_code: int | None, words: str) -> str | None:
    """What to do about an exit status, given the tool's last words."""
    if _FULL_DISK in words:
        return "the disk is full; free some space and submit again"
    if (told := slurm_hint(words)) is not None:
        return told
    missing = _MISSING_TOOL.findall(words)
    if exit_code == 127 and missing:
        return f"the tool {missing[-1]} was not found; install it or correct PATH"
    return None if exit_code is None else _HINTS.get(exit_code)


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
    if exit_code:
        reason = words.splitlines()[-1][:_LINE_LIMIT] if words else ""
        message = f"{title} ended with exit status {exit_code}" + (f": {reason}" if reason else "")
    else:
        message = f"{title} failed: {shorten(complaint, root) or 'see its standard error'}"
    return RunFailure(
        message=message,
        hint=hint(exit_code, words),
        task=name,
        exit_code=exit_code,
        stderr=told,
    )


def shorten(text: str, root: Path) -> str:
    """One paragraph without this machine's paths."""
    text = _QUOTED_PATH.sub(r'"\1"', text.replace(f"{root}/", ""))
    return " ".join(text.split())[: 4 * _LINE_LIMIT]


def workflow_failure(
    error: BaseException, file: str | None, line: int | None, root: Path
) -> RunFailure:
    """A workflow that could not be planned; `file` and `line` in the caller's Snakefile."""
    name = Path(file).name if file else None
    place = f" in {name}, line {line}" if name and line else ""
    text = error.msg if isinstance(error, SyntaxError) else str(error)
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
