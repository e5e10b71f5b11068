import shlex
import sys
from pathlib import Path

from snakemake.settings.types import DeploymentMethod

from wesemu.genomics.bwaindex import SUFFIXES, index_fault
from wesemu.genomics.fastq import LONGEST_READ
from wesemu.genomics.tools import resolve

# Every shell command runs in bash with `set -euo pipefail`, Snakemake's default for bash: a pipe
# fails with whichever of its programs fails.
shell.executable("bash")


def choose_tools():
    settings = dict(config["tools"])
    if DeploymentMethod.CONDA in workflow.deployment_settings.deployment_method:
        settings = {name: name for name in ("bwa", "samtools", "bcftools")} | settings
    return resolve(settings)


TOOLS = choose_tools()
SAMTOOLS = TOOLS.samtools.shell
PYTHON = shlex.join([sys.executable, "-P"])
THREADS = config.get("threads") or workflow.cores or 8
# kept apart: the directory holds nothing of the user's, and goes when a rule ends
TEMPORARY = ".mapping"
REFERENCE = "resources/genome.fa"


def read_group(number, lane):
    """The lane's @RG line with tabs as \\t; bcftools names the sample by its SM."""
    sample = config["sample"]
    name = f"{sample}.L{number}"
    group = (
        lane.get("read_group") or f"@RG\tID:{name}\tLB:{sample}\tPL:ILLUMINA\tPU:{name}"
    )
    group = group.replace("\\t", "\t")
    if "\tSM:" not in group:
        group += f"\tSM:{sample}"
    return group.replace("\t", "\\t")


def lane_options():
    words = []
    for number, lane in enumerate(config["reads"], 1):
        words += ["--reads", lane["first"], lane["second"]]
        words += ["--read-group", read_group(number, lane)]
    if TOOLS.bwa.source != "wheel":
        words += ["--bwa", TOOLS.bwa.shell]
    return words


def mapping_results():
    names = ["aligned.bam", "aligned.bam.bai", "reads.json"]
    names += ["flagstat.json", "flagstat.txt", "stats.txt"]
    if config["markdup"]:
        names.append("markdup.json")
    return [f"results/{name}" for name in names]
