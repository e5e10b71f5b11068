"""Which bwa, samtools and bcftools to run.

What the settings name wins; then a native tool on PATH where it is new enough; then the ones that
come in the pysam and pybwa wheels, started by `wesemu.genomics.wheel`.
"""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from wesemu.errors import ToolMissing
from wesemu.genomics.wheel import wheel_version

Source = Literal["settings", "path", "wheel"]
Words = str | Sequence[str]

OLDEST_BWA = (0, 7, 17)
OLDEST_SAMTOOLS = (1, 20)
"""Of samtools and bcftools: the first with `--write-index=FMT`; `markdup --json` came in 1.17."""

_VERSION = re.compile(r"^(?:Version:|samtools|bcftools)\s+(\S+)", re.MULTILINE)
_PATIENCE_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool that can be started: `command` is the first words of its argument list."""

    name: str
    command: tuple[str, ...]
    version: str
    source: Source

    @property
    def shell(self) -> str:
        """The command as a POSIX shell reads it."""
        return shlex.join(self.command)


@dataclass(frozen=True, slots=True)
class Toolset:
    bwa: Tool
    samtools: Tool
    bcftools: Tool

    @property
    def all(self) -> tuple[Tool, Tool, Tool]:
        return self.bwa, self.samtools, self.bcftools


def resolve(settings: Mapping[str, Words] | None = None, *, path: str | None = None) -> Toolset:
    """Choose the three tools in about 20 ms.

    `settings` maps a tool's name to its command: words, one string for a shell to split, or
    "wheel". `path` stands for the PATH of this process. Raises `ToolMissing`.
    """
    chosen = settings or {}
    candidates = {
        name: _Candidate(name, chosen.get(name), path) for name in ("bwa", "samtools", "bcftools")
    }
    # all are started before the first is waited for
    return Toolset(**{name: candidate.tool() for name, candidate in candidates.items()})


class _Candidate:
    """A tool on trial; the question for its version is under way from the start."""

    def __init__(self, name: str, setting: Words | None, path: str | None) -> None:
        self.name = name
        self._setting = setting
        self._oldest = OLDEST_BWA if name == "bwa" else OLDEST_SAMTOOLS
        words = shlex.split(setting) if isinstance(setting, str) else list(setting or ())
        if words == ["wheel"]:
            words = []
        elif not words and (found := shutil.which(name, path=path)):
            words = [found]
        self._words = tuple(words)
        self._process = self._ask() if words else None

    def _ask(self) -> "subprocess.Popen[str] | None":
        question = () if self.name == "bwa" else ("--version",)
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
        wheel = wheel_version(self.name)
        if version is not None and self._new_enough(version, wheel):
            return Tool(self.name, self._words, version, "path")
        if wheel is None:
            raise ToolMissing(
                f"{self.name} is neither on PATH (at least version "
                f"{'.'.join(map(str, self._oldest))}) nor in an installed wheel for this Python. "
                f"Install {self.name}, or set `tools.{self.name}`."
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
        return found[1] if found else None

    def _new_enough(self, version: str, wheel: str | None) -> bool:
        number = version_number(version)
        if number < self._oldest:
            return False
        # native bwa starts faster and answers the same; the others improve with every version
        return self.name == "bwa" or wheel is None or number >= version_number(wheel)


def wheel_command(name: str) -> tuple[str, ...]:
    """The words that start a tool out of its wheel, with this Python."""
    return (sys.executable, "-P", "-m", "wesemu.genomics.wheel", name)


def version_number(version: str) -> tuple[int, ...]:
    """The leading numbers: (0, 7, 17) of "0.7.17-r1188"."""
    digits = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, digits[0].split("."))) if digits else ()
