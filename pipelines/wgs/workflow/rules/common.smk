from wesemu.errors import WesemuError
from wesemu.genomics.fasta import is_gzip
from wesemu.genomics.ploidy import DIPLOID, check_ploidy, parse_ploidy
from wesemu.genomics.read_groups import check_for_freebayes
from wesemu.genomics.regions import count_bases, read_targets

BCFTOOLS = TOOLS.bcftools.shell
GPU_CALLER = ON_GPU and config["caller"] in ("haplotypecaller", "deepvariant")
if GPU_CALLER:
    CALLER = Tool(config["caller"], (), f"parabricks {PARABRICKS.version}", "settings")
else:
    CALLER = TOOLS.find(config["caller"])
if INDEX_FORMAT == "csi" and config["caller"] not in CALLERS_WITH_CSI:
    raise WorkflowError(
        f"{config['caller']} cannot index contigs of over {LONGEST_IN_BAI:,} bases; choose the "
        f"caller {' or '.join(CALLERS_WITH_CSI)}, or split the contigs"
    )
VCF = f"results/{config['vcf']}"
COMPRESSED = config["vcf"].endswith(".gz")
VCF_INDEX_FORMAT = "csi" if INDEX_FORMAT == "csi" else "tbi"
VCF_INDEX = [f"{VCF}.{VCF_INDEX_FORMAT}"] if COMPRESSED else []
GVCF_NAME = "calls.g.vcf.gz" if config["gvcf"] is True else config["gvcf"]
GVCF = [f"results/{GVCF_NAME}"] if GVCF_NAME else []
GVCF_INDEX = [f"{name}.{VCF_INDEX_FORMAT}" for name in GVCF if name.endswith(".gz")]


def refused(check, *values):
    """Return the result of `check`; its errors end the workflow before anything runs."""
    try:
        return check(*values)
    except WesemuError as error:
        raise WorkflowError(error.message) from error


PLOIDY = refused(parse_ploidy, config["ploidy"])
refused(check_ploidy, config["caller"], PLOIDY, config["sex"])
PLOIDY_FILE = PLOIDY if isinstance(PLOIDY, str) else None
PREPARE = program("slices")
TARGETS = ["resources/targets.bed"] if config["targets"] else []


def bases_to_call():
    """Return the bases of the targets or, roughly, of the genome: the bytes of the FASTA, which are
    known before indexing."""
    targets = Path(config["targets"] or "")
    if targets.is_file():
        return count_bases(refused(read_targets, targets, str(targets)))
    return fasta_size()


def fasta_size():
    fasta = Path(config["reference"])
    return fasta.stat().st_size if fasta.is_file() else 0


# Slices of a small genome: enough for eight cores, but not so small that their start costs more
# than the calls, which take about a second for FASTQ files of 4 MB.
LEAST_SLICES = 8
SMALLEST_SLICE = 200_000
SMALLEST_READS = 1_500_000


def count_slices():
    """Return the number of slices. It depends on the sizes of the genome and the reads alone, so
    that cuts are always at the same positions."""
    size = bases_to_call()
    least = min(LEAST_SLICES, size // SMALLEST_SLICE, reads_size() // SMALLEST_READS)
    return max(1, least, round(size / (config["slice_size_mb"] * 1_000_000)))


def reads_size():
    """Return the bytes of the FASTQ files, or for plain text what gzip would make of them."""
    paths = [lane[mate] for lane in config["reads"] for mate in MATES if mate in lane]
    return sum(
        size_of([path]) // (1 if is_gzip(Path(path)) else 4)
        for path in paths
        if Path(path).is_file()
    )


SLICES = count_slices()
# Bases on both sides of a slice that a caller reads too: more than a cluster of variants and its
# reads span.
MARGIN = 1000
BAM = "results/aligned.bam"
# Without a read these two write nothing, not even into a gVCF; the others report such bases there.
WITH_READS = (
    ["--bam-index", BAM_INDEX] if config["caller"] in ("bcftools", "freebayes") else []
)
# The defaults of -d and -L are 250 reads: deeper, mpileup drops the reads that begin last, so depths
# and alleles are wrong, and the indels are missing.
PILEUP = "mpileup -Ou -X illumina -F 0.1 -a AD,DP -d 100000 -L 1000000"


# MiB of one call: the caller itself, and a contig, which bcftools and freebayes keep in memory.
HEAP_MB = 3500
JAVA_OPTIONS = f"-Xmx{HEAP_MB}m -XX:ParallelGCThreads=1"
CALL_MEMORY = {
    "bcftools": 300,
    "freebayes": 1000,
    "gatk": HEAP_MB + 1000,
    "deepvariant": 8000,
}.get(config["caller"], 0) + min(300, fasta_size() // 1_000_000)
# GATK needs a dictionary of the contigs
DICTIONARY = ["resources/genome.dict"] if config["caller"] == "gatk" else []
# a ploidy file in the formats of the callers, and as text
PLOIDY_FILES = (
    {
        "bcftools": "resources/ploidy.txt",
        "freebayes": "resources/ploidy.bed",
        "text": "resources/ploidy.words",
        "default": "resources/ploidy.default",
        "warnings": "resources/ploidy.warnings",
    }
    if PLOIDY_FILE
    else {}
)
PLOIDY_TEXT = f"cat {PLOIDY_FILES['text']}" if PLOIDY_FILE else f"echo {PLOIDY}"


if config["caller"] == "freebayes":
    refused(check_for_freebayes, READ_GROUPS)


def slices_of(ending):
    return [f"results/slices/{number}{ending}" for number in range(1, SLICES + 1)]
