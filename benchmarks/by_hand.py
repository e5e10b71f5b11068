"""Mapping by hand in bash, with the tools and options of the pipeline."""

import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from benchmarks.processes import cpu_seconds
from wesemu.genomics.tools import Tool, resolve

_GROUP = r"@RG\tID:hand\tSM:sample\tLB:sample\tPL:ILLUMINA"


class HandMapping:
    """Runs `align`, a command that writes alignments to stdout, and the tools after it.

    Results go to `folder`.
    """

    def __init__(self, align: Sequence[str], samtools: Tool, *, threads: int, folder: Path) -> None:
        self.folder = folder
        self.mapping_cpu: list[float] = []
        """CPU seconds of each `run` until the BAM is indexed, without the statistics."""
        self._align = shlex.join(align)
        self._samtools = samtools.shell
        self._threads = threads

    def run(self) -> None:
        """Map the reads once. Raise RuntimeError with the stderr of the tools if one fails."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        before = cpu_seconds()
        self._map()
        self.mapping_cpu.append(cpu_seconds() - before)
        self._compute_statistics()

    def _map(self) -> None:
        """Align, fix mates, sort, mark duplicates and index."""
        samtools, threads = self._samtools, self._threads
        self._bash(
            f"{self._align} | {samtools} fixmate -m -u - - |"
            f" {samtools} sort -u -@ {threads} -T sort - |"
            f" {samtools} markdup -@ {threads} -T markdup --write-index -"
            " out.bam##idx##out.bam.bai"
        )

    def _compute_statistics(self) -> None:
        """Compute the statistics of the pipeline."""
        samtools = self._samtools
        self._bash(
            f"{samtools} flagstat -O json out.bam > flagstat.json & flagstat=$!;"
            f" {samtools} stats out.bam > stats.txt; wait $flagstat"
        )

    def call(self, bcftools: Tool, fasta: Path) -> None:
        """Call variants of the last `run`, index them and compute their statistics."""
        command = bcftools.shell
        self._bash(
            f"{command} mpileup -Ou -X illumina -F 0.1 -a AD,DP -d 100000 -L 1000000"
            f" -f {fasta} out.bam |"
            f" {command} call -a GQ -m -v - -Oz -o calls.vcf.gz;"
            f" {command} index --tbi calls.vcf.gz;"
            f" {command} stats -s - calls.vcf.gz > variants.txt"
        )

    def _bash(self, script: str) -> None:
        log = self.folder / "log.txt"
        with log.open("ab") as stderr:
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", script],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stderr=stderr,
                check=False,
            )
        if done.returncode:
            raise RuntimeError(f"{script}\n{log.read_text(errors='replace')}")


def hand_tool(name: Literal["samtools", "bcftools"]) -> Tool:
    """Return the tool on PATH, of any version, or that of the wheel."""
    path = shutil.which(name)
    if path is None:
        return resolve().find(name)
    first = subprocess.run([path, "--version"], capture_output=True, text=True, check=True)
    return Tool(name, (path,), first.stdout.split()[1], "path")


def bwa_mem(bwa: Sequence[str], threads: int, fasta: Path, reads: Path) -> list[str]:
    """Return the command of a native bwa for the two files in the folder `reads`."""
    command = [*bwa, "mem", "-t", str(threads), "-K", "10000000", "-Y", "-R", _GROUP]
    return [*command, str(fasta), *map(str, _mates(reads))]


def pybwa_mem(threads: int, fasta: Path, reads: Path) -> list[str]:
    """Return the command of `pybwa_mem.py` for the two files in the folder `reads`."""
    script = Path(__file__).with_name("pybwa_mem.py")
    # -P: otherwise benchmarks/queue.py hides the `queue` of the standard library
    python = [sys.executable, "-P", str(script)]
    return [*python, str(threads), str(fasta), *map(str, _mates(reads)), _GROUP]


def _mates(reads: Path) -> list[Path]:
    return [reads / "reads_1.fq.gz", reads / "reads_2.fq.gz"]
