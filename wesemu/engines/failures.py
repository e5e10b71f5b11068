"""Failures in text: the cause, a hint what to do, and the log with the evidence.

Parts: hints for Slurm's messages, hints by exit status and log, failures of tasks and workflows.
"""

import os
import re
import traceback
from pathlib import Path
from tokenize import TokenError

from wesemu.engines.processes import PROCESS_LIMIT_ADVICE
from wesemu.runs.model import RunFailure
from wesemu.runs.run_directory import Workspace, open_below, read_end
from wesemu.util.text import failure_reason, without_paths

# Hints for Slurm's messages.

_SPEAKERS = ("srun:", "salloc:", "sbatch:", "slurmstepd", "wesemu:")
_SLURM_HINTS = (
    ("DUE TO TIME LIMIT", "Slurm's time limit ended it; ask for more with the rule's runtime"),
    ("oom-kill event", "it used more memory than it asked for; raise the rule's mem_mb"),
    ("Out Of Memory", "it used more memory than it asked for; raise the rule's mem_mb"),
    ("DUE TO NODE FAILURE", "the node failed; submit again"),
    ("DUE TO PREEMPTION", "a job of higher priority took its place; submit again"),
    ("CANCELLED AT", "the job was canceled in Slurm (scancel)"),
    ("Unable to contact slurm controller", "slurmctld does not answer; check that it runs"),
    ("nvalid partition", "correct node.slurm_partition, or the rule's slurm_partition"),
    ("nvalid account", "correct node.slurm_account, or the rule's slurm_account"),
    ("nvalid qos", "correct the QOS in node.slurm_options, or the rule's qos"),
    ("nvalid feature", "no node has the features in the rule's constraint"),
    ("generic resource", "no node of the partition has such GPUs"),
    ("node configuration is not available", "no node of the partition is so large; ask for less"),
    ("specification can not be satisfied", "no node of the partition is so large; ask for less"),
    ("unrecognized option", "correct node.slurm_options"),
    ("cannot write to the run directory", "wesemu's data directory must be shared with all nodes"),
    ("couldn't chdir to", "wesemu's data directory must be shared with all nodes"),
    ("execve()", "wesemu's Python must be at the same path on all nodes"),
)


def slurm_hint(text: str) -> str | None:
    """Return the hint for a message of Slurm at the end of a log; None without such a message."""
    lines = "\n".join(line for line in text.splitlines() if line.startswith(_SPEAKERS))
    return next((hint for phrase, hint in _SLURM_HINTS if phrase in lines), None)


def is_refusal(text: str) -> bool:
    """Return whether a log of srun says why the task did not start."""
    refused = ("Unable to", "nvalid", "can not be satisfied", "unrecognized", "srun: fatal:")
    return any(mark in text for mark in (*refused, "execve()"))


_TAIL_BYTES = 16_384
LINE_LIMIT = 240
"""Maximum length of a tool's line in a message."""

_MISSING_TOOL = re.compile(r"(?:^|: )([^\s:]+): (?:command )?not found$", re.MULTILINE)
_QUOTED_PATH = re.compile(r'"/(?:[^"\n]*/)?([^"/\n]+)"')
_MISSING_MODULE = re.compile(r"(?:No module named '?|please install )([\w.]+)")
_MISSING_PLUGIN = re.compile(r"The package (snakemake-[a-z0-9-]+) is not installed")
_WORKFLOWS_EXTRA = frozenset({"pandas", "numpy", "yaml", "requests", "peppy", "eido"})
_WEB = re.compile(
    r"NameResolutionError|Max retries exceeded|ConnectionError|ConnectTimeout"
    r"|ClientConnector\w*Error|Temporary failure in name resolution"
    r"|Name or service not known|Could not resolve host"
    r"|Failed to establish a new connection|URLError"
)
_FULL_DISK = "No space left on device"
_NO_CONDA = re.compile(
    r"Error (?:exporting conda environment|running conda info)"
    r"(?s:.*)(?:conda: command not found|exit status 127)"
)
_HINTS = {
    124: "it ran into a time limit",
    126: "the tool was found but cannot be executed; check its permissions",
    127: "a tool was not found; install it or correct PATH",
    134: "the tool aborted (SIGABRT)",
    137: "it was killed, most often because memory ran out; ask for more memory or fewer threads",
    141: "it wrote to a pipe whose reader had ended (SIGPIPE); `head` ends early, and Snakemake's "
    "shell has pipefail: read the input to its end, or write `(command || true) | head`",
    139: "the tool crashed (segmentation fault)",
    143: "another process ended it (SIGTERM)",
}


_NO_PROCESS = re.compile(
    "can't start new thread|fork: (retry: )?(Resource temporarily unavailable|Cannot fork)"
)


def log_tail(path: Path, size: int = _TAIL_BYTES) -> str:
    """Return the last `size` bytes of a log file as text, or "" without a regular file."""
    try:
        return read_end(path, size).decode(errors="replace").strip()
    except OSError:
        return ""


def _log_tail_below(root: Path, name: str) -> str:
    """As `log_tail`, for a log below `root` whose name the workflow has chosen.

    This process may have no sandbox, so it follows no links out of the run directory.
    """
    if (opened := open_below(root, name)) is None:
        return ""
    with opened as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
        return file.read(_TAIL_BYTES).decode(errors="replace").strip()


def hint(exit_code: int | None, text: str) -> str | None:
    """Return what to do, by exit status and the end of the tool's log."""
    if _FULL_DISK in text:
        return "the disk is full; free some space and submit again"
    if _NO_PROCESS.search(text):
        return f"{PROCESS_LIMIT_ADVICE} and submit again"
    if (advice := slurm_hint(text)) is not None:
        return advice
    if (module := missing_module_hint(text)) is not None:
        return module
    if _WEB.search(text):
        return (
            "a download from the web failed because the server cannot reach the address; attach "
            "the files (also those of a wrapper or module) and name them by a relative path"
        )
    if "Missing input files for rule" in text:
        return (
            "attach the files, or have a rule make them; workflows see other folders of the server "
            "only if engine.readable lists them"
        )
    if _NO_CONDA.search(text):
        return "the server has no conda; install it, or remove conda: from the rules"
    missing = _MISSING_TOOL.findall(text)
    if exit_code == 127 and missing:
        return f"the tool {missing[-1]} was not found; install it or correct PATH"
    return None if exit_code is None else _HINTS.get(exit_code)


def missing_module_hint(text: str) -> str | None:
    """Return what to install for a missing Python module or Snakemake plugin."""
    if (plugin := _MISSING_PLUGIN.search(text)) is not None:
        return f"pip install {plugin[1]} where the server is installed"
    if (found := _MISSING_MODULE.search(text)) is None:
        return None
    module = found[1].partition(".")[0]
    if module in _WORKFLOWS_EXTRA:
        return f"{module} comes with the extra workflows: pip install 'wesemu[workflows]'"
    return (
        f"install the Python package that has the module {module} beside the server, or attach "
        "the module"
    )


def shorten(text: str, root: Path) -> str:
    """Return one paragraph without paths of this machine.

    Paths below the run directory `root` become relative; other paths below the data directory
    become file names.
    """
    text = without_paths(text.replace(f"{root}/", ""), root.parent.parent)
    text = _QUOTED_PATH.sub(r'"\1"', text)
    return " ".join(text.split())[: 4 * LINE_LIMIT]


# Failures of tasks and workflows.

_INCOMPLETE = "some output files are missing"
_MISSING_FILE = re.compile(r"(?:^|: ?)([^\n:]+?) \(missing locally", re.MULTILINE)
_RUN_ERROR = re.compile(
    r'^RuleException:\n(?P<kind>\w+) in file "(?P<file>[^"\n]+)", line (?P<line>\d+):\n'
    r"(?P<text>.*)",
    re.MULTILINE,
)


def task_failure(
    name: str, wildcards: str, exit_code: int | None, error: str, root: Path, logs: list[str]
) -> RunFailure:
    """Return the failure of a Snakemake task.

    `logs` are paths below `root`, the most informative first. `error` is Snakemake's message.
    """
    texts = {path: _log_tail_below(root, path) for path in logs}
    log = next((path for path in logs if texts[path]), logs[0] if logs else None)
    text = texts[log] if log else ""
    title = f"rule {name}" + (f" ({wildcards})" if wildcards else "")
    advice = hint(exit_code, text)
    if _INCOMPLETE in error:
        files = ", ".join(_MISSING_FILE.findall(error))
        message = f"{title} succeeded, but did not create {shorten(files, root)}"
        advice = "have the command write what output: names, relative to the working directory"
    elif exit_code:
        reason = shorten(_reason(text), root)[:LINE_LIMIT]
        message = f"{title} ended with exit status {exit_code}" + (f": {reason}" if reason else "")
    else:
        reason = error or (_reason(text) if _RUN_ERROR.search(text) else "")
        message = f"{title} failed: {shorten(reason, root) or 'see its standard error'}"
    return RunFailure(message=message, hint=advice, task=name, exit_code=exit_code, stderr=log)


def _reason(text: str) -> str:
    """Return the line of a log that states the cause.

    After a failed `run:` block the log does not end with the error: Snakemake adds lines. If a tool
    in the block failed, its own message is the cause; it comes before Snakemake's error.
    """
    error = _RUN_ERROR.search(text)
    before = text[: error.start()].rstrip() if error else text
    if error is None or (error["kind"] == "CalledProcessError" and before):
        return failure_reason(before)
    return f"{error['kind']} in {Path(error['file']).name}, line {error['line']}: {error['text']}"


_TRACEBACK = "Traceback (most recent call last):\n"
_FRAMES = re.compile(r"(?:[ \t].*\n|\n)+")
_METADATA = re.compile(
    r"(Error recording metadata for finished job \(\[Errno (?!13\]|30\]).*\))\. Please ensure .*"
)
"""Snakemake advises to check permissions of a folder, whatever the error is."""

_SYNTAX = re.compile(
    r'  File "([^"\n]+)", line (\d+)\n(?:(?!  File )[ \t].*\n|\n)*'
    r"((?:Syntax|Indentation)Error): (.*)"
)
_NO_FILE = re.compile(r"No such file or directory: '(?:work/)?([^'\n]*[./][^'\n]*)'")


def signal_failure(program: str, code: int) -> RunFailure | None:
    """Return the failure of an engine that a signal ended; None if its exit status is its own."""
    if code <= 128:
        return None
    return RunFailure(
        message=f"{program} itself was ended by signal {code - 128}",
        hint="most often because memory ran out" if code == 137 else None,
        exit_code=code,
        stderr="stderr.log",
    )


def snakemake_reason(error: str) -> str:
    """Return Snakemake's message without the frames of a traceback and without wrong advice."""
    # Snakemake may fail to print a SyntaxError, so the last traceback is not that of the cause.
    if (syntax := _SYNTAX.search(error)) is not None:
        file, line, kind, text = syntax.groups()
        return f"{kind} in {Path(file).name}, line {line}: {text}"
    _, traced, last = error.rpartition(_TRACEBACK)
    reason = _FRAMES.sub("", last, count=1) if traced else error
    return _METADATA.sub(r"\1", reason)


def workflow_hint(text: str) -> str | None:
    """Return what to do about an error of the workflow that no task caused."""
    if (advice := hint(None, text)) is None and (missing := _NO_FILE.search(text)) is not None:
        return f"attach {missing[1]}, or correct its path in the workflow"
    return advice


def workflow_failure(
    error: BaseException, file: str | None, line: int | None, root: Path
) -> RunFailure:
    """Return the failure of planning; `file` and `line` are in the user's Snakefile."""
    name = Path(file).name if file else None
    place = f" in {name}, line {line}" if name and line else ""
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    if isinstance(error.__context__, TokenError):  # Snakemake's own text lacks the last bracket
        text = error.__context__.args[0]
    kind = type(error).__name__
    text = shorten(snakemake_reason(text), root)
    return RunFailure(
        message=f"{kind}{place}: {text}" if text else f"{kind}{place}",
        hint=workflow_hint(text) or ("correct the workflow and submit it again" if name else None),
        file=name,
        stderr="stderr.log",
    )


def deepest_frame(error: BaseException, files: set[str]) -> tuple[str, int] | None:
    """Return file and line of the innermost frame in one of `files`."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename in files and frame.lineno is not None:
            return frame.filename, frame.lineno
    return None


def relative_logs(workspace: Workspace, logs: tuple[str, ...]) -> list[str]:
    """Return the log files of a rule (below `work/`) as paths below the run directory."""
    return [f"{workspace.work.name}/{log}" for log in logs if not Path(log).is_absolute()]
