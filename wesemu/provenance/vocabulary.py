"""How files and programs are called in a crate."""

import re
from pathlib import PurePosixPath

_BEHIND_THE_PATH = re.compile(r"(?<=://)([^?#]*)[?#].*", re.DOTALL)

_ENCODINGS = {
    ".bcf": "application/octet-stream",
    ".cram": "application/octet-stream",
    ".csv": "text/csv",
    ".cwl": "text/plain",
    ".fa": "text/plain",
    ".fasta": "text/plain",
    ".fastq": "text/plain",
    ".fq": "text/plain",
    ".gz": "application/gzip",
    ".htm": "text/html",
    ".html": "text/html",
    ".json": "application/json",
    ".log": "text/plain",
    ".md": "text/markdown",
    ".pdf": "application/pdf",
    ".png": "image/png",
    ".py": "text/x-python",
    ".smk": "text/plain",
    ".svg": "image/svg+xml",
    ".tsv": "text/tab-separated-values",
    ".txt": "text/plain",
    ".vcf": "text/plain",
    ".wdl": "text/plain",
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
    ".zip": "application/zip",
}

_HOMEPAGES = {
    "bcftools": "https://samtools.github.io/bcftools/",
    "bwa": "https://github.com/lh3/bwa",
    "bwa-mem2": "https://github.com/bwa-mem2/bwa-mem2",
    "bwa-mem3": "https://github.com/fg-labs/bwa-mem3",
    "cwltool": "https://github.com/common-workflow-language/cwltool",
    "deepvariant": "https://github.com/google/deepvariant",
    "freebayes": "https://github.com/freebayes/freebayes",
    "gatk": "https://gatk.broadinstitute.org",
    "minimap2": "https://github.com/lh3/minimap2",
    "miniwdl": "https://github.com/chanzuckerberg/miniwdl",
    "samtools": "https://www.htslib.org",
    "snakemake": "https://snakemake.github.io",
}


def encoding(name: str) -> str | None:
    """The media type of a file by its name or URL; None where that does not tell."""
    path = PurePosixPath(_BEHIND_THE_PATH.sub(r"\1", name))
    return "text/plain" if path.name == "Snakefile" else _ENCODINGS.get(path.suffix.lower())


def homepage(program: str) -> str | None:
    return _HOMEPAGES.get(program.lower())
