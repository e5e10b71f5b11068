# On a GPU: the callers of Parabricks. gzip and bcftools read their files to the end, and so find cut
# ones. haplotypecaller writes a VCF or a gVCF, deepvariant writes both at once. The version and the
# number of GPUs decide whether they are compressed.
CALL_TWICE = config["gvcf"] and config["caller"] == "haplotypecaller"
RAW_VCF = "results/parabricks/vcf"
RAW_GVCF = ["results/parabricks/gvcf"] if config["gvcf"] else []


if not FQ2BAM:

    # another mapper has mapped, so mapping's rules for Parabricks are not there
    include: "../../../mapping/workflow/rules/parabricks_options.smk"


if SLICES == 1 and not TARGETS:

    ruleorder: gpu_variants > call

else:

    ruleorder: gpu_variants > gather


rule gpu_call:
    input:
        bam=BAM,
        bai=BAM_INDEX,
        reference=REFERENCE,
        fai=f"{REFERENCE}.fai",
        targets=TARGETS,
    output:
        vcf=temp(RAW_VCF),
        gvcf=[] if CALL_TWICE else [temp(name) for name in RAW_GVCF],
    log:
        "logs/gpu_call.log",
    conda:
        "../envs/calling.yaml"
    threads: GPU_THREADS
    resources:
        gpu=GPUS,
        mem_mb=GPU_HOST_MEMORY_MB,
    params:
        depends_on=CALLING_KEY,
        step=PARABRICKS_STEP,
        options=lambda wildcards, threads: parabricks_options(),
        caller=config["caller"],
        more=[f"--ploidy={PLOIDY}", *(f"--targets={name}" for name in TARGETS)],
        gvcf=lambda wildcards, output: " ".join(f"--gvcf {x}" for x in output.gvcf),
    shell:
        "{params.step} call --caller {params.caller} {params.more} {params.options:q}"
        " --reference {input.reference:q} --bam {input.bam:q} --threads {threads}"
        " --vcf {output.vcf:q} {params.gvcf} 2> {log}"


if CALL_TWICE:

    rule gpu_gvcf:
        input:
            bam=BAM,
            bai=BAM_INDEX,
            reference=REFERENCE,
            fai=f"{REFERENCE}.fai",
            targets=TARGETS,
        output:
            gvcf=temp(RAW_GVCF),
        log:
            "logs/gpu_gvcf.log",
        conda:
            "../envs/calling.yaml"
        threads: GPU_THREADS
        resources:
            gpu=GPUS,
            mem_mb=GPU_HOST_MEMORY_MB,
        params:
            depends_on=CALLING_KEY,
            step=PARABRICKS_STEP,
            options=lambda wildcards, threads: parabricks_options(),
            caller=config["caller"],
            more=[f"--ploidy={PLOIDY}", *(f"--targets={name}" for name in TARGETS)],
        shell:
            "{params.step} call --caller {params.caller} {params.more} {params.options:q}"
            " --reference {input.reference:q} --bam {input.bam:q} --threads {threads}"
            " --gvcf {output.gvcf:q} 2> {log}"


# Removes header lines with the directory of this run.
rule gpu_variants:
    input:
        vcf=RAW_VCF,
        gvcf=RAW_GVCF,
        targets=TARGETS,
    output:
        vcf=VCF,
        index=VCF_INDEX,
        gvcf=GVCF,
        gvcf_index=GVCF_INDEX,
        stats="results/variants.txt",
    log:
        "logs/gpu_variants.log",
    conda:
        "../envs/calling.yaml"
    params:
        depends_on=CALLING_KEY,
        bcftools=BCFTOOLS,
        form=f"-Oz -W={VCF_INDEX_FORMAT}" if COMPRESSED else "-Ov",
        gvcf_form=f"-Oz -W={VCF_INDEX_FORMAT}" if GVCF_INDEX else "-Ov",
        ploidy=PLOIDY,
        kept=[f"-T {name} --targets-overlap pos" for name in TARGETS],
    shell:
        "("
        # gzip -f passes plain text on
        ' clean() {{ gzip -cdf "$1" | HERE="$PWD" awk \'/^#CHROM/'
        ' {{ print "##wesemu_ploidy={params.ploidy}" }}'
        ' !/^##/ || !index($0, ENVIRON["HERE"])\'; }};'
        # reference calls of deepvariant are not variants
        " clean {input.vcf:q} | awk -F '\\t' '/^#/ || $7 != \"RefCall\"' |"
        " {params.bcftools} view --no-version {params.kept} {params.form} -o {output.vcf:q} -;"
        " for gvcf in {output.gvcf:q}; do"
        " clean {input.gvcf:q} | {params.bcftools} view --no-version {params.gvcf_form} -o $gvcf -; done;"
        " {params.bcftools} stats -s - {output.vcf:q} |"
        " grep -v '^# The command line' > {output.stats:q}"
        ") 2> {log}"
