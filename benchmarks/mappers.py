"""The two ways to come by bwa: a native one, and the one in the wheel."""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.by_hand import bwa_mem, pybwa_mem
from benchmarks.machine import cores
from benchmarks.options import Options
from wesemu.genomics.tools import Tool, resolve


@dataclass(frozen=True, slots=True)
class Mapper:
    """`bwa` is the native one, None for the wheel's; `environment` makes a server use it."""

    name: str
    bwa: Tool | None
    environment: Mapping[str, str]

    def by_hand(self, fasta: Path, reads: Path) -> list[str]:
        """The command that aligns the reads and does nothing else."""
        if self.bwa is None:
            return pybwa_mem(cores(), fasta, reads)
        return bwa_mem(self.bwa.command, cores(), fasta, reads)

    def checked(self, fasta: Path, reads: Path, folder: Path) -> Sequence[str]:
        """The pipeline's own first program: it checks and counts the reads as well."""
        first, second = (str(reads / f"reads_{mate}.fq.gz") for mate in (1, 2))
        command = [sys.executable, "-P", "-m", "wesemu.genomics.align"]
        command += ["--reference", str(fasta), "--reads", first, second]
        command += ["--read-group", r"@RG\tID:hand\tSM:sample", "--threads", str(cores())]
        command += ["--counts", str(folder / "counts.json"), "--error", str(folder / "error.json")]
        return command if self.bwa is None else [*command, "--bwa", self.bwa.shell]


def chosen(options: Options) -> list[Mapper]:
    """Raises RuntimeError where only a native bwa is wanted and there is none."""
    found: list[Mapper] = []
    bwa = resolve().bwa
    if options.tools != "wheels" and bwa.source != "wheel":
        found.append(Mapper("native bwa", bwa, {}))
    if options.tools != "native":
        found.append(Mapper("wheels", None, _without_bwa(options.work)))
    if not found:
        raise RuntimeError("there is no native bwa on PATH")
    return found


def _without_bwa(work: Path) -> dict[str, str]:
    """A PATH whose bwa is too old to be chosen."""
    folder = work / "no-bwa"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bwa").write_text("#!/bin/sh\necho Version: 0.0.0\n")
    (folder / "bwa").chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}
