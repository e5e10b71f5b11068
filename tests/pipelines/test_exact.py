"""The pipeline's alignments equal those of the same tools by hand, in all fields."""

import shlex
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from wesemu.genomics.reference import ReferenceStore
from wesemu.genomics.tools import Tool, resolve
from wesemu.genomics.wheel_tools import wheel_version

GROUP = r"@RG\tID:HG002.L1\tLB:HG002\tPL:ILLUMINA\tPU:HG002.L1\tSM:HG002"

# bwa mem as pybwa's documentation shows it: uncompressed BAM to stdout
PYBWA = r"""
import sys, pysam
from pybwa import BwaMem, BwaMemOptions
fasta, first, second, group = sys.argv[1:]
fields = dict(field.split(":", 1) for field in group.split("\\t")[1:])
with pysam.FastaFile(fasta) as file:
    contigs = [{"SN": name, "LN": file.get_reference_length(name)} for name in file.references]
pairs = zip(pysam.FastxFile(first), pysam.FastxFile(second), strict=True)
options = BwaMemOptions(
    interleaved_paired_end=True, threads=2, soft_clip_supplementary=True, chunk_size=10_000_000
)
answers = BwaMem(fasta).align([read for pair in pairs for read in pair], options)
with pysam.AlignmentFile("-", "wbu", header={"SQ": contigs, "RG": [fields]}) as output:
    for answer in answers:
        for alignment in answer:
            alignment.set_tag("RG", fields["ID"])
            output.write(alignment)
"""


NATIVE = [pytest.param(name, marks=pytest.mark.native) for name in ("native", "bwa-mem3")]


@pytest.mark.parametrize("bwa", ["wheel", *NATIVE])
def test_the_records_equal_those_by_hand(workflow, real_config, tmp_path, bwa):
    """bwa-mem3's as well equal those of native bwa by hand: the sample is one batch."""
    if bwa == "wheel" and wheel_version("bwa mem") is None:
        pytest.skip("the wheel of bwa does not map on this Python")
    if bwa != "wheel" and not shutil.which("bwa"):
        pytest.skip("no bwa on PATH")
    tools = resolve({"bwa": bwa if bwa == "wheel" else "bwa"})
    chosen = {"tools": {"bwa": bwa.replace("native", "bwa")}}
    if bwa == "bwa-mem3":
        chosen = {"mapper": "bwa-mem3"}
    results = workflow("mapping").succeed(real_config | chosen)
    fasta = ReferenceStore(tmp_path / "r", tmp_path / "c").ready(Path(real_config["reference"]))
    lane = real_config["reads"][0]
    align = ["bwa", "mem", "-t", "2", "-K", "10000000", "-Y", "-R", GROUP, str(fasta)]
    align += [lane["first"], lane["second"]]
    if bwa == "wheel":
        dictionary = ["dict", "-o", str(fasta.with_suffix(".dict")), str(fasta)]
        subprocess.run([*tools.samtools.command, *dictionary], check=True)
        align = [sys.executable, "-c", PYBWA, str(fasta), lane["first"], lane["second"], GROUP]
    by_hand = map_by_hand(tmp_path, align, tools.samtools)
    ours = alignments(results / "aligned.bam", tools.samtools)
    theirs = alignments(by_hand, tools.samtools)
    assert sum(theirs.values()) == 21023
    assert ours - theirs == Counter()
    assert theirs - ours == Counter()


def map_by_hand(folder: Path, align: list[str], samtools: Tool) -> Path:
    script = (
        f"{shlex.join(align)} | {samtools.shell} fixmate -m -u - - |"
        f" {samtools.shell} sort -u -T '{folder}/sort' - |"
        f" {samtools.shell} markdup -T '{folder}/markdup' - '{folder}/by_hand.bam'"
    )
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", script], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return folder / "by_hand.bam"


def alignments(bam: Path, samtools: Tool) -> Counter[tuple[str, ...]]:
    """How often each record occurs: its eleven fields, and its tags by name, as pybwa puts the
    read group last."""
    view = subprocess.run(
        [*samtools.command, "view", str(bam)], check=True, capture_output=True, text=True
    )
    records = (line.split("\t") for line in view.stdout.splitlines())
    return Counter((*fields[:11], *sorted(fields[11:])) for fields in records)
