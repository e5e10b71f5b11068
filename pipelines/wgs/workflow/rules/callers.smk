# The callers. Each function answers a shell command that calls the BAM's variants, within the BED
# `regions` if given, to `vcf` in bcftools' output `form`, and to `gvcf` (compressed) if given.
# Diploid, one thread. Headers hold versions and options, no dates and no paths of this machine.


def call_with_bcftools(vcf, form, gvcf, regions):
    """Allele depths and genotype qualities as GATK's callers write them. For a gVCF the pileup is
    made once and read by two callers."""
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


def call_with_freebayes(vcf, form, gvcf, regions):
    within = f"-t {regions}" if regions else ""
    return (
        f"{CALLER.shell} --genotype-qualities {within} -f {REFERENCE} {BAM} |"
        " grep -v -e '^##fileDate=' -e '^##commandline=' |"
        f" {BCFTOOLS} view --no-version -i 'QUAL>=1' {form} -o {vcf} -"
    )


def call_with_gatk(vcf, form, gvcf, regions):
    """HaplotypeCaller. Where there is a gVCF, the VCF is made of it by GenotypeGVCFs."""
    folder, take = scratch(vcf)
    gatk = f"{CALLER.shell} --java-options {shlex.quote(JAVA_OPTIONS)}"
    within = f"-L {regions}" if regions else ""
    common = (
        f"-R {REFERENCE} {within} --sample-ploidy 2 --tmp-dir {folder}"
        " --add-output-vcf-command-line false"
    )
    haplotypes = f"{gatk} HaplotypeCaller {common} -I {BAM} --native-pair-hmm-threads 1"
    if gvcf is None:
        return f"{take} {haplotypes} -O {folder}/raw.vcf.gz; {tidy(folder, vcf, form)}"
    starting = "--only-output-calls-starting-in-intervals" if regions else ""
    return (
        f"{take} {haplotypes} -ERC GVCF -O {folder}/raw.g.vcf.gz;"
        f" {gatk} GenotypeGVCFs {common} {starting} -V {folder}/raw.g.vcf.gz"
        f" -O {folder}/raw.vcf.gz;"
        f" {tidy(folder, vcf, form)}; {tidy(folder, gvcf, '-Oz', 'raw.g.vcf.gz')}"
    )


def call_with_deepvariant(vcf, form, gvcf, regions):
    """The model for whole genomes of short reads. Records that it found to equal the reference
    are left out of the VCF."""
    folder, take = scratch(vcf)
    within = f"--regions={regions}" if regions else ""
    more = f"--output_gvcf={folder}/raw.g.vcf.gz" if gvcf else ""
    variants = f"-e 'FILTER=\"RefCall\"' {form}"
    call = (
        f"{take} {CALLER.shell} --model_type=WGS --ref={REFERENCE} --reads={BAM} {within}"
        f" --num_shards=1 --intermediate_results_dir={folder}/steps"
        f" --output_vcf={folder}/raw.vcf.gz {more};"
        f" {tidy(folder, vcf, variants)}"
    )
    if gvcf is None:
        return call
    return f"{call}; {tidy(folder, gvcf, '-Oz', 'raw.g.vcf.gz')}"


def scratch(vcf):
    """A folder of the call's own, and the commands that make it and remove it in the end."""
    folder = f"{vcf}.scratch"
    return folder, f"rm -rf {folder}; trap 'rm -rf {folder}' EXIT; mkdir {folder};"


def tidy(folder, target, form, name="raw.vcf.gz"):
    """bcftools writes every caller's VCF, so that slices have one form and can be joined."""
    return f"{BCFTOOLS} view --no-version {form} -o {target} {folder}/{name}"


CALLERS = {
    "bcftools": call_with_bcftools,
    "freebayes": call_with_freebayes,
    "gatk": call_with_gatk,
    "deepvariant": call_with_deepvariant,
}


def call_command(vcf, form, gvcf=None, regions=None):
    return CALLERS[config["caller"]](vcf, form, gvcf, regions)


# Everything that the variants depend on, the text of the commands included.
CALLING_KEY = depends_on(
    TOOLS.bcftools,
    CALLER,
    alignments=ALIGNMENT_KEY,
    config={name: config[name] for name in ("caller", "vcf", "gvcf", "slice_size_mb")},
    commands=[] if GPU_CALLER else call_command("VCF", VCF_FORM, *GVCF[:1]),
)
