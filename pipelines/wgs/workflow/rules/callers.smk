# The callers. Each function answers a shell command that calls the BAM's variants to `vcf`, and to
# `gvcf` if given, both compressed. `regions` and `wide` are BED files of a slice, or None for the
# whole genome: records begin in `regions`, and the caller sees `wide`, so that a cluster of
# variants at a cut is the same on both sides of it, and in one slice only.
# One thread. Headers hold versions and options, no dates and no paths of this machine.


def call_with_bcftools(vcf, gvcf, regions, wide):
    """Allele depths and genotype qualities as GATK's callers write them. For a gVCF the pileup is
    made once and read by two callers. It starts early, since it realigns a read at the first indel
    that it comes to.
    """
    pileup = f"{BCFTOOLS} {PILEUP} -f {REFERENCE} {BAM}"
    if regions:
        pileup += (
            f" -R {wide} | {BCFTOOLS} view --no-version -Ou {beginning_in(regions)} -"
        )
    ploidy = f"--ploidy {PLOIDY}"
    output = f"-Oz -o {vcf}"
    if PLOIDY_FILE:
        ploidy = f"--ploidy-file {PLOIDY_FILES['bcftools']}"
        # where there is no copy, bcftools writes records without a genotype
        output = f"-Ou | {BCFTOOLS} view --no-version -e 'GT=\"mis\"' -Oz -o {vcf} -"
    call = f"{BCFTOOLS} call --no-version {ploidy} -a GQ -m"
    variants = f"{call} -v - {output}"
    if gvcf is None:
        return f"{pileup} | {variants}"
    pipe = f"{vcf}.pileup"
    return (
        f"rm -f {pipe}; mkfifo {pipe};"
        f" {call} --gvcf 0,10,20,30 -Oz -o {gvcf} - < {pipe} & gvcf=$!;"
        f" {pileup} | tee {pipe} | {variants};"
        f" wait $gvcf; rm -f {pipe}"
    )


def call_with_freebayes(vcf, gvcf, regions, wide):
    within = f"-t {wide}" if regions else ""
    ploidy = f"-p {PLOIDY}"
    if PLOIDY_FILE:
        ploidy = f"-p $(cat {PLOIDY_FILES['default']})"
        # an empty map is an error to freebayes
        copies = PLOIDY_FILES["freebayes"]
        ploidy += f" $([ ! -s {copies} ] || echo --cnv-map {copies})"
    return (
        f"{CALLER.shell} --genotype-qualities {ploidy} {within} -f {REFERENCE} {BAM} |"
        " grep -v -e '^##fileDate=' -e '^##commandline=' |"
        f" {BCFTOOLS} view --no-version -i 'QUAL>=1' {beginning_in(regions)} -Oz -o {vcf} -"
    )


def call_with_gatk(vcf, gvcf, regions, wide):
    """HaplotypeCaller. Where there is a gVCF, the VCF is made of it by GenotypeGVCFs."""
    folder, take = scratch(vcf)
    gatk = f"{CALLER.shell} --java-options {shlex.quote(JAVA_OPTIONS)}"
    within = f"-L {regions}" if regions else ""
    common = (
        f"-R {REFERENCE} {within} --sample-ploidy {PLOIDY} --tmp-dir {folder}"
        " --add-output-vcf-command-line false"
    )
    haplotypes = f"{gatk} HaplotypeCaller {common} -I {BAM} --native-pair-hmm-threads 1"
    if gvcf is None:
        return (
            f"{take} {haplotypes} -O {folder}/raw.vcf.gz; {tidy(folder, vcf, regions)}"
        )
    starting = "--only-output-calls-starting-in-intervals" if regions else ""
    return (
        f"{take} {haplotypes} -ERC GVCF -O {folder}/raw.g.vcf.gz;"
        f" {gatk} GenotypeGVCFs {common} {starting} -V {folder}/raw.g.vcf.gz"
        f" -O {folder}/raw.vcf.gz;"
        f" {tidy_gvcf(folder, gvcf)}; {tidy(folder, vcf, regions)}"
    )


def call_with_deepvariant(vcf, gvcf, regions, wide):
    """The model for whole genomes of short reads. Records that it found to equal the reference
    are left out of the VCF."""
    folder, take = scratch(vcf)
    within = f"--regions={regions}" if regions else ""
    more = f"--output_gvcf={folder}/raw.g.vcf.gz" if gvcf else ""
    call = (
        f"{take} {CALLER.shell} --model_type=WGS --ref={REFERENCE} --reads={BAM} {within}"
        f" --num_shards=1 --intermediate_results_dir={folder}/steps"
        f" --output_vcf={folder}/raw.vcf.gz {more};"
    )
    if gvcf:
        call += f" {tidy_gvcf(folder, gvcf)};"
    return f"{call} {tidy(folder, vcf, regions, variants_only)}"


variants_only = "-e 'FILTER=\"RefCall\"'"


def beginning_in(regions):
    """Options of `bcftools view`."""
    return f"-T {regions} --targets-overlap pos" if regions else ""


def scratch(vcf):
    """A folder of the call's own, and the commands that make it; `tidy` removes it."""
    folder = f"{vcf}.scratch"
    return folder, f"rm -rf {folder}; mkdir {folder};"


def tidy(folder, target, regions, options=""):
    """bcftools writes every caller's VCF, so that slices have one form and can be joined."""
    return (
        f"{BCFTOOLS} view --no-version {options} {beginning_in(regions)} -Oz -o {target} {folder}/raw.vcf.gz;"
        f" rm -rf {folder}"
    )


def tidy_gvcf(folder, target):
    return f"{BCFTOOLS} view --no-version -Oz -o {target} {folder}/raw.g.vcf.gz"


CALLERS = {
    "bcftools": call_with_bcftools,
    "freebayes": call_with_freebayes,
    "gatk": call_with_gatk,
    "deepvariant": call_with_deepvariant,
}


def call_command(vcf, gvcf=None, regions=None, wide=None):
    if GPU_CALLER:  # the rules of Parabricks call instead
        return "false"
    return CALLERS[config["caller"]](vcf, gvcf, regions, wide)


# Shell functions. `join TO VCF…` makes one file of slices, or of one: compressed ones are joined
# as they are, under the first one's header without its region and with the ploidy.
JOIN = (
    f'export PLOIDY="$({PLOIDY_TEXT})";'
    " complete() { awk '"
    ' /^#CHROM/ { print "##wesemu_ploidy=" ENVIRON["PLOIDY"] }'
    ' /^##/ { gsub(/ -R [^ ]*[.]bed/, "") } { print }\'; };'
    " join() { to=$1; first=$2; shift 2;"
    " case $to in"
    f" *.gz) {BCFTOOLS} head $first | complete > $temporary.header;"
    f" {BCFTOOLS} reheader -h $temporary.header -o $temporary.first.gz $first;"
    f" {BCFTOOLS} concat --naive -Oz -o $to $temporary.first.gz $@ ;;"
    f" *) {BCFTOOLS} concat --no-version -Ov $first $@ | complete > $to ;;"
    " esac; };"
)


# Everything that the variants depend on, the text of the commands included.
CALLING_KEY = depends_on(
    TOOLS.bcftools,
    CALLER,
    alignments=ALIGNMENT_KEY,
    config={
        name: config[name]
        for name in (
            *("caller", "vcf", "gvcf", "slice_size_mb", "ploidy", "sex", "targets"),
        )
    },
    files=[fingerprint(path) for path in (PLOIDY_FILE, config["targets"]) if path],
    commands=(
        [] if GPU_CALLER else call_command("VCF", *GVCF[:1], regions="BED", wide="BED")
    ),
)
