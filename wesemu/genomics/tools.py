"""Which bwa, samtools and bcftools to run; where they are asked for, other mappers and callers.

What the settings name wins; then a native tool on PATH where it is new enough; then the tools of
the pysam and pybwa wheels, started by `wesemu.genomics.wheel_tools`. bwa-mem3 is a wheel, and maps
in place of bwa where neither PATH nor a wheel has a bwa that maps. The others have no wheel.
"""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from wesemu.errors import ToolMissing
from wesemu.genomics.bwa_index import SUFFIXES_OF
from wesemu.genomics.wheel_tools import bwa_mem3_fault, wheel_version

Source = Literal["settings", "path", "wheel"]
Words = str | Sequence[str]

REQUIRED = ("bwa", "samtools", "bcftools")
OPTIONAL = ("minimap2", "bwa-mem2", "freebayes", "gatk", "deepvariant")

_OLDEST = {
    "bwa": (0, 7, 17),
    # the first with `--write-index=FMT`; `markdup --json` came in 1.17
    "samtools": (1, 20),
    "bcftools": (1, 20),
    "minimap2": (2, 20),
    "bwa-mem2": (2, 2),
    "freebayes": (1, 3),
    "gatk": (4, 1),
    "deepvariant": (1, 0),
}
_COMMANDS = {"deepvariant": "run_deepvariant"}
_QUESTIONS = {"bwa": (), "bwa-mem2": ("version",)}
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
_PATIENCE_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool that can be started: `command` is the first words of its argument list. `note` is a
    sentence where it takes the place of another."""

    name: str
    command: tuple[str, ...]
    version: str
    source: Source
    note: str = ""

    @property
    def shell(self) -> str:
        """The command as a POSIX shell reads it."""
        return shlex.join(self.command)


@dataclass(frozen=True, slots=True)
class Toolset:
    bwa: Tool
    samtools: Tool
    bcftools: Tool
    more: Mapping[str, Tool] = field(default_factory=dict)

    @property
    def all(self) -> tuple[Tool, ...]:
        """Those that were found."""
        return (self.bwa, self.samtools, self.bcftools, *self.more.values())

    def mapper(self, name: str) -> Tool:
        """The tool that maps where a request names the mapper `name`. Raises `ToolMissing`."""
        if name == "bwa-mem3":
            return _bwa_mem3()
        if name == "bwa" and not _maps(self.bwa):
            return _in_place_of_bwa()
        return self.find(name)

    def indexer(self, name: str) -> Tool:
        """The tool whose index the mapper `name` reads; bwa's where it has none of its own."""
        if name in SUFFIXES_OF:
            return self.mapper(name)
        return self.bwa

    def find(self, name: str) -> Tool:
        """The required tool `name`, or one of `more`. Raises StopIteration for another."""
        return next(tool for tool in self.all if tool.name == name)


def resolve(
    settings: Mapping[str, Words] | None = None,
    *,
    path: str | None = None,
    more: Collection[str] = (),
) -> Toolset:
    """Choose the required tools, and those of `OPTIONAL` that are in `more`, in about 20 ms.

    `settings` maps a tool's name to its command: words, one string for a shell to split, or
    "wheel". `path` stands for the PATH of this process. Raises `ToolMissing`.
    """
    chosen = settings or {}
    names = [*REQUIRED, *(name for name in OPTIONAL if name in more)]
    candidates = {name: _Candidate(name, chosen.get(name), path) for name in names}
    # all are started before the first is waited for
    tools = {name: candidate.tool() for name, candidate in candidates.items()}
    bwa, samtools, bcftools = (tools.pop(name) for name in REQUIRED)
    return Toolset(bwa, samtools, bcftools, tools)


def indexer_name(mapper: str, tools: Callable[[], Toolset]) -> str:
    """What `Toolset.indexer(mapper)` is called; `tools` is asked where that depends on them."""
    if mapper == "bwa" and wheel_version("bwa mem") is None:
        return tools().indexer(mapper).name
    return mapper if mapper in SUFFIXES_OF else "bwa"


def _maps(bwa: Tool) -> bool:
    """Not every version of the wheel does; all of them make indexes."""
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
            "bioconda's package bwa) and put it on PATH, or set `tools.bwa`. Only what Parabricks "
            "maps on a GPU needs none.",
            field="mapper",
        )
    return _bwa_mem3(f"bwa-mem3 maps in place of bwa: {missing}.")


def check_commands(commands: Mapping[str, str]) -> dict[str, str]:
    """Commands by tool, as the setting `tools` gives them, with paths made absolute: tasks run
    in folders of their own. `bwa_mem2` means bwa-mem2. Raises ValueError for what is no command.
    """
    checked = {}
    for given, command in commands.items():
        name = given.lower().replace("_", "-")
        if name not in (*REQUIRED, *OPTIONAL):
            known = ", ".join((*REQUIRED, *OPTIONAL))
            raise ValueError(f"there is no tool {given!r}; there are {known}")
        try:
            words = shlex.split(command)
        except ValueError as error:
            raise ValueError(f"the command of {given} cannot be read: {error}") from error
        if not words:
            raise ValueError(f"the command of {given} is empty; leave it out to have it found")
        if words == ["wheel"] and name not in REQUIRED:
            raise ValueError(f"{given} has no wheel; name a command")
        if "/" in words[0]:
            words[0] = str(Path(words[0]).expanduser().absolute())
        checked[name] = shlex.join(words)
    return checked


def starts(command: str) -> bool:
    """Whether there is a program for the command of a setting; it is not started."""
    words = shlex.split(command)
    return words == ["wheel"] or shutil.which(words[0]) is not None


def command_name(name: str) -> str:
    """What the program of a tool is called."""
    return _COMMANDS.get(name, name)


def how_to_get(name: str) -> str:
    """What to install, for a sentence that begins with "Install"."""
    where = _WHERE_FROM.get(name)
    return f"{name} ({where})" if where else name


class _Candidate:
    """A tool on trial; the question for its version is under way from the start."""

    def __init__(self, name: str, setting: Words | None, path: str | None) -> None:
        self.name = name
        self._setting = setting
        self._oldest = _OLDEST[name]
        words = shlex.split(setting) if isinstance(setting, str) else list(setting or ())
        if words == ["wheel"]:
            words = []
        elif not words and (found := shutil.which(command_name(name), path=path)):
            words = [found]
        self._words = tuple(words)
        self._process = self._ask() if words else None

    def _ask(self) -> "subprocess.Popen[str] | None":
        question = _QUESTIONS.get(self.name, ("--version",))
        try:
            return subprocess.Popen(
                [*self._words, *question],
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
        if self._setting and self._words:
            if version is None:
                raise ToolMissing(
                    f"The settings say that {self.name} is {shlex.join(self._words)!r}, but that "
                    "does not start or does not tell its version. Correct `tools."
                    f"{self.name}` or leave it out."
                )
            return Tool(self.name, self._words, version, "settings")
        wheel = wheel_version(self.name) if self.name in REQUIRED else None
        if version is not None and self._new_enough(version, wheel):
            return Tool(self.name, self._words, version, "path")
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
            text, _ = self._process.communicate(timeout=_PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            return None
        found = _VERSION.search(text)
        return (found[1] or found[2]) if found else None

    def _new_enough(self, version: str, wheel: str | None) -> bool:
        number = version_number(version)
        if number < self._oldest:
            return False
        # native bwa starts faster and answers the same; the others improve with every version
        return self.name == "bwa" or wheel is None or number >= version_number(wheel)


def wheel_command(name: str) -> tuple[str, ...]:
    """The words that start a tool out of its wheel, with this Python."""
    return (sys.executable, "-P", "-m", "wesemu.genomics.wheel_tools", name)


def version_number(version: str) -> tuple[int, ...]:
    """The leading numbers: (0, 7, 17) of "0.7.17-r1188"."""
    digits = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, digits[0].split("."))) if digits else ()


# Which tools runs would find on this machine now.


def installed_tools(commands: Mapping[str, str]) -> list[Tool]:
    """The required tools, and the optional ones that are there; `commands` are those of the
    setting `tools`. Raises ToolMissing.

    bwa is what maps where `mapper` is bwa: where that is bwa-mem3, the tool's note says so.
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
