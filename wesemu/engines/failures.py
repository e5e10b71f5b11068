"""How a task's end is explained: its last words, and a hint by its exit status."""

import re
from pathlib import Path

from wesemu.engines.slurm.hints import slurm_hint
from wesemu.runs.workspace import read_end
from wesemu.tool_messages import without_paths

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


def last_words(path: Path) -> str:
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
