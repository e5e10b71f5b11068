BCFTOOLS = TOOLS.bcftools.shell
CALLER = TOOLS.freebayes if config["caller"] == "freebayes" else TOOLS.bcftools
GPU_CALLER = config["caller"] in ("haplotypecaller", "deepvariant")
if GPU_CALLER:
    CALLER = Tool(config["caller"], (), f"parabricks {PARABRICKS.version}", "settings")
VCF = f"results/{config['vcf']}"
COMPRESSED = config["vcf"].endswith(".gz")
VCF_INDEX = [f"{VCF}.tbi"] if COMPRESSED else []
VCF_FORM = "-Oz -W=tbi" if COMPRESSED else "-Ov"
GVCF = ["results/calls.g.vcf.gz"] if config["gvcf"] else []
GVCF_INDEX = [f"{name}.tbi" for name in GVCF]


def count_slices():
    """How many pieces the genome is called in: by the size of the FASTA, known before it is
    indexed, so that the same genome is always cut at the same places."""
    fasta = Path(config["reference"])
    size = fasta.stat().st_size if fasta.is_file() else 0
    return max(1, round(size / (config["slice_size_mb"] * 1_000_000)))


SLICES = count_slices()
BAM = "results/aligned.bam"
PILEUP = "mpileup -Ou -X illumina -a AD,DP"


def call_command(vcf, form, gvcf=None, regions=None):
    """The shell command that calls the BAM's variants, within the BED `regions` if given.

    Diploid; allele depths and genotype qualities as GATK's callers write them. Headers hold
    versions and options, no dates and no paths of this machine. For a gVCF the pileup is made
    once and read by two callers.
    """
    if config["caller"] == "freebayes":
        within = f"-t {regions}" if regions else ""
        return (
            f"{CALLER.shell} --genotype-qualities {within} -f {REFERENCE} {BAM} |"
            " grep -v -e '^##fileDate=' -e '^##commandline=' |"
            f" {BCFTOOLS} view --no-version -i 'QUAL>=1' {form} -o {vcf} -"
        )
    within = f"-R {regions}" if regions else ""
    pileup = f"{BCFTOOLS} {PILEUP} -f {REFERENCE} {BAM} {within}"
    call = f"{BCFTOOLS} call --no-version -a GQ -m"
    if gvcf is None:
        return f"{pileup} | {call} -v {form} -o {vcf} -"
    pipe = f"{vcf}.pileup"
    return (
        f"rm -f {pipe}; trap 'rm -f {pipe}' EXIT; mkfifo {pipe};"
        f" {call} --gvcf 0,10,20,30 -Oz -o {gvcf} - < {pipe} & gvcf=$!;"
        f" {pileup} | tee {pipe} | {call} -v {form} -o {vcf} -;"
        " wait $gvcf"
    )


def slices_of(ending):
    return [f"results/slices/{number}{ending}" for number in range(1, SLICES + 1)]
