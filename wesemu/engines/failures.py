"""How a task's end is explained: its last words, and a hint by its exit status."""

import re
import traceback
from pathlib import Path
from tokenize import TokenError

from wesemu.runs.model import RunFailure
from wesemu.runs.run_directory import Workspace, read_end
from wesemu.util.text import failure_reason, without_paths

# What to do about what Slurm says when a task does not start, or is ended by it.


_SPEAKERS = ("srun:", "salloc:", "sbatch:", "slurmstepd", "wesemu:")
_SLURM_HINTS = (
    ("DUE TO TIME LIMIT", "Slurm's time limit ended it; ask for more with the rule's runtime"),
    ("oom-kill event", "it used more memory than it asked for; raise the rule's mem_mb"),
    ("Out Of Memory", "it used more memory than it asked for; raise the rule's mem_mb"),
    ("DUE TO NODE FAILURE", "the node failed; submit again"),
    ("DUE TO PREEMPTION", "a job of higher priority took its place; submit again"),
    ("CANCELLED AT", "somebody canceled the job in Slurm (scancel)"),
    ("Unable to contact slurm controller", "slurmctld does not answer; see that it runs"),
    ("nvalid partition", "correct node.slurm_partition, or the rule's slurm_partition"),
    ("nvalid account", "correct node.slurm_account, or the rule's slurm_account"),
    ("nvalid qos", "correct the QOS in node.slurm_options, or the rule's qos"),
    ("nvalid feature", "no node has what the rule's constraint asks for"),
    ("generic resource", "no node of the partition has such GPUs"),
    ("node configuration is not available", "no node of the partition has so much; ask for less"),
    ("specification can not be satisfied", "no node of the partition has so much; ask for less"),
    ("unrecognized option", "correct node.slurm_options"),
    ("cannot write to the run directory", "wesemu's data directory must be shared with all nodes"),
    ("couldn't chdir to", "wesemu's data directory must be shared with all nodes"),
    ("execve()", "wesemu's Python must be at the same path on all nodes"),
)


def slurm_hint(words: str) -> str | None:
    """`words` are a log's last ones; None where they are none of Slurm's."""
    told = "\n".join(line for line in words.splitlines() if line.startswith(_SPEAKERS))
    return next((hint for phrase, hint in _SLURM_HINTS if phrase in told), None)


def is_refusal(words: str) -> bool:
    """Whether srun says why it did not run the task, rather than how the task ended."""
    refused = ("Unable to", "nvalid", "can not be satisfied", "unrecognized", "srun: fatal:")
    return any(mark in words for mark in (*refused, "execve()"))


_TAIL_BYTES = 16_384
LINE_LIMIT = 240
"""The length at which a tool's line is cut."""

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
_HINTS = {
    124: "it ran into a time limit",
    126: "the tool was found but cannot be executed; check its permissions",
    127: "a tool was not found; install it or correct PATH",
    134: "the tool aborted (SIGABRT)",
    137: "it was killed, most often because memory ran out; ask for more memory or fewer threads",
    141: "it wrote to a pipe whose reader had ended (SIGPIPE), as `head` does; with pipefail, as "
    "in Snakemake's shell, read the input to its end or write `(command || true) | head`",
    139: "the tool crashed (segmentation fault)",
    143: "it was ended from outside (SIGTERM)",
}


def log_tail(path: Path) -> str:
    """The end of a log file, "" where there is no regular file."""
    try:
        return read_end(path, _TAIL_BYTES).decode(errors="replace").strip()
    except OSError:
        return ""


def hint(exit_code: int | None, words: str) -> str | None:
    """What to do about an exit status, given the tool's last words."""
    if _FULL_DISK in words:
        return "the disk is full; free some space and submit again"
    if (told := slurm_hint(words)) is not None:
        return told
    if (module := missing_module_hint(words)) is not None:
        return module
    if _WEB.search(words):
        return (
            "something was to be fetched from the web and could not be reached from here; attach "
            "the files (a wrapper's or a module's, too) and name them by a relative path"
        )
    missing = _MISSING_TOOL.findall(words)
    if exit_code == 127 and missing:
        return f"the tool {missing[-1]} was not found; install it or correct PATH"
    return None if exit_code is None else _HINTS.get(exit_code)


def missing_module_hint(words: str) -> str | None:
    """What to install for a Python module that a workflow imports, or a plugin that it names."""
    if (plugin := _MISSING_PLUGIN.search(words)) is not None:
        return f"pip install {plugin[1]} where the server is installed"
    if (found := _MISSING_MODULE.search(words)) is None:
        return None
    module = found[1].partition(".")[0]
    if module in _WORKFLOWS_EXTRA:
        return f"{module} comes with the extra workflows: pip install 'wesemu[workflows]'"
    return (
        f"install the Python package that has the module {module} beside the server, or attach "
        "the module"
    )


def shorten(text: str, root: Path) -> str:
    """One paragraph without this machine's paths: of files below the run directory `root` what
    follows it, of others below the data directory their names."""
    text = without_paths(text.replace(f"{root}/", ""), root.parent.parent)
    text = _QUOTED_PATH.sub(r'"\1"', text)
    return " ".join(text.split())[: 4 * LINE_LIMIT]


# What to tell the caller of a failed run: one sentence, a hint, and the way to the evidence.


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
    told = next((log for log in logs if log_tail(root / log)), logs[0] if logs else None)
    words = log_tail(root / told) if told else ""
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
