# The callers. Each function returns a shell command that calls the variants of the BAM. It writes
# `vcf`, and `gvcf` if given, both compressed. `regions` and `wide` are BED files of a slice, or
# None for the whole genome. Records begin in `regions`, but the caller reads `wide`. So a cluster
# of variants at a cut is called the same in both slices, and is in one of them only. Callers use
# one thread. Headers have versions and options, but no dates and no paths of this machine.


def call_with_bcftools(vcf, gvcf, regions, wide):
    """Write allele depths and genotype qualities as GATK does.

    With a gVCF, one pileup feeds two callers through a named pipe. The pileup covers `wide`, since
    mpileup realigns a read at the first indel that it meets.
    """
    pileup = [f"{PILEUP} -f {REFERENCE} {BAM}"]
    if regions:
        pileup[0] += f" -R {wide}"
        pileup.append(f"view --no-version -Ou {beginning_in(regions)} -")
    ploidy = f"--ploidy {PLOIDY}"
    output = [f"-Oz -o {vcf}"]
    if PLOIDY_FILE:
        ploidy = f"--ploidy-file {PLOIDY_FILES['bcftools']}"
        # for ploidy 0 bcftools writes records without a genotype
        output = ["-Ou", f"view --no-version -e 'GT=\"mis\"' -Oz -o {vcf} -"]
    call = f"call --no-version {ploidy} -a GQ -m"
    variants = [f"{call} -v - {output[0]}", *output[1:]]
    piped = TOOLS.bcftools.piped
    if gvcf is None:
        return piped(*pileup, *variants)
    pipe = f"{vcf}.pileup"
    return (
        f"rm -f {pipe}; mkfifo {pipe};"
        f" {BCFTOOLS} {call} --gvcf 0,10,20,30 -Oz -o {gvcf} - < {pipe} & gvcf=$!;"
        f" {piped(*pileup)} | tee {pipe} | {piped(*variants)};"
        f" wait $gvcf; rm -f {pipe}"
    )


def call_with_freebayes(vcf, gvcf, regions, wide):
    within = f"-t {wide}" if regions else ""
    ploidy = f"-p {PLOIDY}"
    if PLOIDY_FILE:
        ploidy = f"-p $(cat {PLOIDY_FILES['default']})"
        # freebayes refuses an empty map
        copies = PLOIDY_FILES["freebayes"]
        ploidy += f" $([ ! -s {copies} ] || echo --cnv-map {copies})"
    return (
        f"{CALLER.shell} --genotype-qualities {ploidy} {within} -f {REFERENCE} {BAM} |"
        " grep -v -e '^##fileDate=' -e '^##commandline=' |"
        f" {BCFTOOLS} view --no-version -i 'QUAL>=1' {beginning_in(regions)} -Oz -o {vcf} -"
    )


def call_with_gatk(vcf, gvcf, regions, wide):
    """Run HaplotypeCaller; with a gVCF, GenotypeGVCFs makes the VCF from it."""
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
    """Run the model for whole genomes of short reads; the VCF leaves out its reference calls."""
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
    """Return options of `bcftools view`."""
    return f"-T {regions} --targets-overlap pos" if regions else ""


def scratch(vcf):
    """Return a temporary folder of the call and the commands that make it; `tidy` removes it."""
    folder = f"{vcf}.scratch"
    return folder, f"rm -rf {folder}; mkdir {folder};"


def tidy(folder, target, regions, options=""):
    """Return a command that rewrites a VCF with bcftools, so that slices can be joined."""
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
    if GPU_CALLER:  # the rules of Parabricks replace this command
        return "false"
    return CALLERS[config["caller"]](vcf, gvcf, regions, wide)


# Shell functions. `join TO VCF…` joins the files of one or more slices. Compressed files are joined
# without decompression, under the header of the first one, with the ploidy and without its region.
JOIN = (
    f'export PLOIDY="$({PLOIDY_TEXT})";'
    " complete() { awk '"
    ' /^#CHROM/ { print "##wesemu_ploidy=" ENVIRON["PLOIDY"] }'
    ' /^##/ { gsub(/ -R [^ ]*[.]bed/, "") } { print }\'; };'
    " join() { to=$1; first=$2; shift 2;"
    " case $to in"
    f" *.gz) {BCFTOOLS} head $first | complete > $temporary.header;"
    " complete=$to; if [ $# != 0 ]; then complete=$temporary.first.gz; fi;"
    f" {BCFTOOLS} reheader -h $temporary.header -o $complete $first;"
    f" if [ $# != 0 ]; then {BCFTOOLS} concat --naive -Oz -o $to $complete $@; fi ;;"
    f" *) {BCFTOOLS} concat --no-version -Ov $first $@ | complete > $to ;;"
    " esac; };"
)


# Everything that the variants depend on, with the text of the commands.
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
