from wesemu.errors import WesemuError
from wesemu.genomics.ploidy import DIPLOID, check_ploidy, parse_ploidy
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
    """What `check` returns; what it refuses ends the workflow before anything runs."""
    try:
        return check(*values)
    except WesemuError as error:
        raise WorkflowError(error.message) from error


PLOIDY = refused(parse_ploidy, config["ploidy"])
refused(check_ploidy, config["caller"], PLOIDY, config["sex"])
PLOIDY_FILE = PLOIDY if isinstance(PLOIDY, str) else None
PREPARE = f"{PYTHON} -m wesemu.genomics.slices"
TARGETS = ["resources/targets.bed"] if config["targets"] else []


def bases_to_call():
    """Those of the targets, else of the genome, about: by the bytes of the FASTA, which are known
    before it is indexed."""
    targets = Path(config["targets"] or "")
    if targets.is_file():
        return count_bases(refused(read_targets, targets, str(targets)))
    return fasta_size()


def fasta_size():
    fasta = Path(config["reference"])
    return fasta.stat().st_size if fasta.is_file() else 0


# Slices of a small genome: enough for eight cores, none so small that its start costs more.
LEAST_SLICES = 8
SMALLEST_SLICE = 200_000


def count_slices():
    """How many pieces the genome is called in: by its size alone, so that the same genome is
    always cut at the same places."""
    size = bases_to_call()
    least = min(LEAST_SLICES, size // SMALLEST_SLICE)
    return max(1, least, round(size / (config["slice_size_mb"] * 1_000_000)))


SLICES = count_slices()
# Bases on both sides of a slice that a caller sees as well: more than a cluster of variants and
# the reads on it have.
MARGIN = 1000
BAM = "results/aligned.bam"
PILEUP = "mpileup -Ou -X illumina -F 0.1 -a AD,DP"


# MiB of one call: what the caller takes for itself; bcftools and freebayes also hold a contig.
HEAP_MB = 3500
JAVA_OPTIONS = f"-Xmx{HEAP_MB}m -XX:ParallelGCThreads=1"
CALL_MEMORY = {
    "bcftools": 300,
    "freebayes": 1000,
    "gatk": HEAP_MB + 1000,
    "deepvariant": 8000,
}.get(config["caller"], 0) + min(300, fasta_size() // 1_000_000)
# GATK wants to know the contigs
DICTIONARY = ["resources/genome.dict"] if config["caller"] == "gatk" else []
# a ploidy file as the callers take it, and in words
PLOIDY_FILES = (
    {
        "bcftools": "resources/ploidy.txt",
        "freebayes": "resources/ploidy.bed",
        "text": "resources/ploidy.words",
        "default": "resources/ploidy.default",
    }
    if PLOIDY_FILE
    else {}
)
PLOIDY_TEXT = f"cat {PLOIDY_FILES['text']}" if PLOIDY_FILE else f"echo {PLOIDY}"


def check_sample():
    """freebayes takes a blank in its map of copy numbers for the end of the name."""
    if PLOIDY_FILE and config["caller"] == "freebayes" and " " in SAMPLE:
        raise WorkflowError(
            f"freebayes cannot call with a ploidy file for the sample {SAMPLE!r}: take "
            "the blanks out of the read group's SM"
        )


check_sample()


def slices_of(ending):
    return [f"results/slices/{number}{ending}" for number in range(1, SLICES + 1)]
