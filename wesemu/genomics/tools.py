"""Choose the bwa, samtools and bcftools to run, and other mappers and callers on request.

The order is: the command in the settings; a native tool on PATH that is new enough; the tools of
the pysam and pybwa wheels, which `wesemu.genomics.wheel_tools` starts. bwa-mem3 comes as a wheel,
and maps in place of bwa where neither PATH nor a wheel has a bwa that maps. The others have no
wheel.
"""

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from typing import Literal

from wesemu.errors import ToolMissing
from wesemu.genomics.bwa_index import SUFFIXES_OF
from wesemu.genomics.wheel_tools import PIPE, bwa_mem3_fault, wheel_command, wheel_version

Source = Literal["settings", "path", "wheel"]
Command = str | Sequence[str]

REQUIRED = ("bwa", "samtools", "bcftools")
OPTIONAL = ("minimap2", "bwa-mem2", "freebayes", "gatk", "deepvariant")

_OLDEST = {
    "bwa": (0, 7, 17),
    # 1.20 is the first with `--write-index=FMT`; `markdup --json` came in 1.17
    "samtools": (1, 20),
    "bcftools": (1, 20),
    "minimap2": (2, 20),
    "bwa-mem2": (2, 2),
    "freebayes": (1, 3),
    "gatk": (4, 1),
    "deepvariant": (1, 0),
}
_COMMANDS = {"deepvariant": "run_deepvariant"}
_VERSION_OPTIONS = {"bwa": (), "bwa-mem2": ("version",)}
_WHERE_FROM = {
    "bwa-mem2": "its releases, or bioconda",
    "gatk": "GATK 4, as bioconda's gatk4 or its release, with Java",
    "deepvariant": "a program run_deepvariant, such as a script that starts DeepVariant's image",
}
_VERSION = re.compile(
    r"^(?:(?:[Vv]ersion:|samtools|bcftools|The Genome Analysis Toolkit \(GATK\)"
    r"|DeepVariant version)\s+v?(\S+)|(\d+\.\S+)$)",
    re.MULTILINE,
)
_TIMEOUT_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool that can be started: `command` begins its argument list. `note` is a sentence if the
    tool replaces another."""

    name: str
    command: tuple[str, ...]
    version: str
    source: Source
    note: str = ""

    @property
    def shell(self) -> str:
        """The command, quoted for a POSIX shell."""
        return shlex.join(self.command)

    def piped(self, *commands: str) -> str:
        """Return a shell pipe of `commands`, each without the name of this samtools or bcftools.

        The wheel starts Python once for the whole pipe.
        """
        between = f" {PIPE} " if self.source == "wheel" else f" | {self.shell} "
        return f"{self.shell} {between.join(commands)}"


@dataclass(frozen=True, slots=True)
class Toolset:
    """The required tools, and `more` by name."""

    bwa: Tool
    samtools: Tool
    bcftools: Tool
    more: Mapping[str, Tool] = field(default_factory=dict)

    @property
    def all(self) -> tuple[Tool, ...]:
        return (self.bwa, self.samtools, self.bcftools, *self.more.values())

    def mapper(self, name: str) -> Tool:
        """Return the tool for the mapper `name` of a request. Raises `ToolMissing`."""
        if name == "bwa-mem3":
            return _bwa_mem3()
        if name == "bwa" and not _maps(self.bwa):
            return _in_place_of_bwa()
        return self.find(name)

    def indexer(self, name: str) -> Tool:
        """Return the tool that makes the index for the mapper `name`."""
        if name in SUFFIXES_OF:
            return self.mapper(name)
        return self.bwa

    def find(self, name: str) -> Tool:
        """Return a required tool or one of `more`. Raises StopIteration for another name."""
        return next(tool for tool in self.all if tool.name == name)


def resolve(
    settings: Mapping[str, Command] | None = None,
    *,
    path: str | None = None,
    more: Collection[str] = (),
) -> Toolset:
    """Choose the required tools, and those of `OPTIONAL` that are in `more`, in about 20 ms.

    `settings` maps the name of a tool to its command: a list, a string in shell syntax, or "wheel".
    `path` replaces the PATH of this process. Raises `ToolMissing`.
    """
    chosen = settings or {}
    names = [*REQUIRED, *(name for name in OPTIONAL if name in more)]
    candidates = {name: _Candidate(name, chosen.get(name), path) for name in names}
    # All tools are asked for their versions at the same time.
    tools = {name: candidate.tool() for name, candidate in candidates.items()}
    bwa, samtools, bcftools = (tools.pop(name) for name in REQUIRED)
    return Toolset(bwa, samtools, bcftools, tools)


def indexer_name(mapper: str, tools: Callable[[], Toolset]) -> str:
    """Return the name of `Toolset.indexer(mapper)`; call `tools` only if it depends on them."""
    if mapper == "bwa" and wheel_version("bwa mem") is None:
        return tools().indexer(mapper).name
    return mapper if mapper in SUFFIXES_OF else "bwa"


def _maps(bwa: Tool) -> bool:
    """Return whether bwa can map: some versions of the wheel only make indexes."""
    return bwa.source != "wheel" or wheel_version("bwa mem") is not None


def _bwa_mem3(note: str = "") -> Tool:
    version = wheel_version("bwa-mem3")
    fault = bwa_mem3_fault()
    if fault or version is None:
        raise ToolMissing(f"{fault}. Choose the mapper bwa, with bwa on PATH.", field="mapper")
    return Tool("bwa-mem3", wheel_command("bwa-mem3"), version, "wheel", note)


def _in_place_of_bwa() -> Tool:
    oldest = ".".join(map(str, _OLDEST["bwa"]))
    missing = f"bwa is neither on PATH (at least version {oldest}) nor in a wheel for this Python"
    if fault := bwa_mem3_fault():
        raise ToolMissing(
            f"{missing}, and bwa-mem3 cannot map in its place: {fault}. Install bwa (Debian's and "
            "bioconda's package bwa) and put it on PATH, or set `tools.bwa`. Runs that map with "
            "Parabricks on a GPU do not need bwa.",
            field="mapper",
        )
    return _bwa_mem3(f"bwa-mem3 maps in place of bwa: {missing}.")


def check_commands(commands: Mapping[str, str]) -> dict[str, str]:
    """Return the commands of the setting `tools` with absolute paths, since tasks run in other
    folders. `bwa_mem2` means bwa-mem2. Raises ValueError for an invalid command.
    """
    checked = {}
    for given, command in commands.items():
        name = given.lower().replace("_", "-")
        if name not in (*REQUIRED, *OPTIONAL):
            known = ", ".join((*REQUIRED, *OPTIONAL))
            raise ValueError(f"there is no tool {given!r}; use one of {known}")
        try:
            argv = shlex.split(command)
        except ValueError as error:
            raise ValueError(f"the command of {given} cannot be read: {error}") from error
        if not argv:
            raise ValueError(
                f"the command of {given} is empty; leave it out to use the tool on PATH"
            )
        if "\0" in command:
            raise ValueError(f"the command of {given} cannot contain NUL")
        if argv == ["wheel"] and name not in REQUIRED:
            raise ValueError(f"{given} has no wheel; name a command")
        if "/" in argv[0]:
            argv[0] = os.path.abspath(os.path.expanduser(argv[0]))  # noqa: PTH100, PTH111
        checked[name] = shlex.join(argv)
    return checked


def starts(command: str) -> bool:
    """Return whether the program of a setting's command exists; does not start it."""
    argv = shlex.split(command)
    return argv == ["wheel"] or shutil.which(argv[0]) is not None


def command_name(name: str) -> str:
    """Return the name of a tool's program."""
    return _COMMANDS.get(name, name)


def how_to_get(name: str) -> str:
    """Return what to install, for a sentence that begins with "Install"."""
    where = _WHERE_FROM.get(name)
    return f"{name} ({where})" if where else name


class _Candidate:
    """A tool whose version is being queried by a process since the candidate was made."""

    def __init__(self, name: str, setting: Command | None, path: str | None) -> None:
        self.name = name
        self._setting = setting
        self._oldest = _OLDEST[name]
        argv = shlex.split(setting) if isinstance(setting, str) else list(setting or ())
        if argv == ["wheel"]:
            argv = []
        elif not argv and (program := shutil.which(command_name(name), path=path)):
            argv = [program]
        self._argv = tuple(argv)
        self._process = self._query_version() if argv else None

    def _query_version(self) -> "subprocess.Popen[str] | None":
        options = _VERSION_OPTIONS.get(self.name, ("--version",))
        try:
            return subprocess.Popen(
                [*self._argv, *options],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
            )
        except OSError:
            return None

    def tool(self) -> Tool:
        version = self._version()
        if self._setting and self._argv:
            if version is None:
                raise ToolMissing(
                    f"The settings say that {self.name} is {shlex.join(self._argv)!r}, but that "
                    "does not start or prints no version. Correct `tools."
                    f"{self.name}` or leave it out."
                )
            return Tool(self.name, self._argv, version, "settings")
        wheel = wheel_version(self.name) if self.name in REQUIRED else None
        if version is not None and self._new_enough(version, wheel):
            return Tool(self.name, self._argv, version, "path")
        if wheel is None:
            oldest = ".".join(map(str, self._oldest))
            where = f"{command_name(self.name)} is not on PATH (at least version {oldest})"
            if self.name in REQUIRED:
                where = (
                    f"{self.name} is neither on PATH (at least version {oldest}) nor in an "
                    "installed wheel for this Python"
                )
            raise ToolMissing(
                f"{where}. Install {how_to_get(self.name)}, or set `tools.{self.name}`."
            )
        return Tool(self.name, wheel_command(self.name), wheel, "wheel")

    def _version(self) -> str | None:
        if self._process is None:
            return None
        try:
            text, _ = self._process.communicate(timeout=_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            return None
        match = _VERSION.search(text)
        return (match[1] or match[2]) if match else None

    def _new_enough(self, version: str, wheel: str | None) -> bool:
        number = version_number(version)
        if number < self._oldest:
            return False
        # A native bwa starts faster and gives the same alignments. Of the other tools the newer
        # version wins.
        return self.name == "bwa" or wheel is None or number >= version_number(wheel)


def version_number(version: str) -> tuple[int, ...]:
    """Return the leading numbers: (0, 7, 17) for "0.7.17-r1188"."""
    digits = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, digits[0].split("."))) if digits else ()


def installed_tools(commands: Mapping[str, str]) -> list[Tool]:
    """Return the required tools and the installed optional ones, as runs would find them now.

    `commands` is the setting `tools`. The first tool is the one that maps for `mapper` bwa: if that
    is bwa-mem3, its note says so. Raises ToolMissing.
    """
    required = resolve(commands)
    tools = [required.mapper("bwa"), required.samtools, required.bcftools]
    with suppress(ToolMissing):
        if tools[0].name != "bwa-mem3":
            tools.append(required.mapper("bwa-mem3"))
    for name in OPTIONAL:
        with nullcontext() if name in commands else suppress(ToolMissing):
            tools.append(resolve(commands, more=[name]).find(name))
    return tools
