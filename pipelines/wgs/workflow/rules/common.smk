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
VCF_FORM = f"-Oz -W={VCF_INDEX_FORMAT}" if COMPRESSED else "-Ov"
GVCF = ["results/calls.g.vcf.gz"] if config["gvcf"] else []
GVCF_INDEX = [f"{name}.{VCF_INDEX_FORMAT}" for name in GVCF]


# Slices of a small genome: enough for eight cores, none so small that its start costs more.
LEAST_SLICES = 8
SMALLEST_SLICE = 200_000


def fasta_size():
    """Bytes, about its bases; known before the FASTA is indexed."""
    fasta = Path(config["reference"])
    return fasta.stat().st_size if fasta.is_file() else 0


def count_slices():
    """How many pieces the genome is called in: by its size alone, so that the same genome is
    always cut at the same places."""
    size = fasta_size()
    least = min(LEAST_SLICES, size // SMALLEST_SLICE)
    return max(1, least, round(size / (config["slice_size_mb"] * 1_000_000)))


SLICES = count_slices()
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


def slices_of(ending):
    return [f"results/slices/{number}{ending}" for number in range(1, SLICES + 1)]
