"""The mappers to compare: a native bwa, the bwa in the wheel, and bwa-mem3."""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.by_hand import bwa_mem, pybwa_mem
from benchmarks.machine import cores
from benchmarks.options import Options
from wesemu.genomics.tools import Tool, resolve
from wesemu.genomics.wheel_tools import bwa_mem3_fault, wheel_version


@dataclass(frozen=True, slots=True)
class Mapper:
    """One mapper.

    `bwa` is the native tool, None for the wheel. `environment` makes a server use the mapper,
    `parameter` is its name in requests. `target` is the maximum ratio of CPU time to mapping by
    hand.
    """

    name: str
    bwa: Tool | None
    environment: Mapping[str, str]
    parameter: str = "bwa"
    target: float = 1.10

    def by_hand(self, fasta: Path, reads: Path) -> list[str]:
        """Return the command that only aligns the reads."""
        if self.bwa is None:
            return pybwa_mem(cores(), fasta, reads)
        return bwa_mem(self.bwa.command, cores(), fasta, reads)

    def checked(self, fasta: Path, reads: Path, folder: Path) -> Sequence[str]:
        """Return the first command of the pipeline, which also checks and counts the reads."""
        first, second = (str(reads / f"reads_{mate}.fq.gz") for mate in (1, 2))
        command = [sys.executable, "-P", "-m", "wesemu.genomics.align"]
        command += ["--reference", str(fasta), "--reads", first, second]
        command += ["--read-group", r"@RG\tID:hand\tSM:sample", "--threads", str(cores())]
        command += ["--counts", str(folder / "counts.json"), "--error", str(folder / "error.json")]
        return command if self.bwa is None else [*command, "--bwa", self.bwa.shell]


def select_mappers(options: Options) -> list[Mapper]:
    """Return the mappers of --tools that are installed. Raise RuntimeError if there is none."""
    bwa = resolve().bwa
    native = None if bwa.source == "wheel" else bwa
    wheel = wheel_version("bwa mem") is not None
    installed = {}
    if native is not None:
        installed["native"] = Mapper("native bwa", native, {})
    if wheel:
        installed["wheels"] = Mapper("wheels", None, _without_bwa(options.work))
    if bwa_mem3_fault() is None and (native is not None or wheel):
        # by hand this is bwa, the native one if installed
        installed["bwa-mem3"] = Mapper("bwa-mem3", native, {}, parameter="bwa-mem3", target=0.65)
    found = [each for name, each in installed.items() if options.tools in (name, "all")]
    if not found:
        raise RuntimeError(f"{options.tools}: no such mapper is installed")
    return found


def _without_bwa(work: Path) -> dict[str, str]:
    """Return a PATH with a bwa that is too old for the server to use."""
    folder = work / "no-bwa"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bwa").write_text("#!/bin/sh\necho Version: 0.0.0\n")
    (folder / "bwa").chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}
