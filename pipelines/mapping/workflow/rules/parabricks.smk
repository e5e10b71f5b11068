# On a GPU: fq2bam of NVIDIA Parabricks replaces bwa, fixmate, sort and markdup.


include: "parabricks_options.smk"


if INDEX_FORMAT == "csi":
    raise WorkflowError(
        f"Parabricks cannot index contigs of over {LONGEST_IN_BAI:,} bases; run on the CPU, or "
        "split the contigs"
    )


def fq2bam_lanes():
    """Return the options of the lanes; each @RG line has all fields that pbrun may need."""
    usual = [{"LB": x.library, "PL": "ILLUMINA", "PU": x.id} for x in READ_GROUPS]
    return reads_and_groups(
        [
            group.with_fields(
                **{tag: value for tag, value in more.items() if tag not in group.fields}
            )
            for group, more in zip(READ_GROUPS, usual)
        ]
    )


ruleorder: fq2bam > map


rule fq2bam:
    input:
        reads=[lane[mate] for lane in config["reads"] for mate in MATES if mate in lane],
        reference=REFERENCE,
        index=REFERENCE_INDEX,
        state=REFERENCE_STATE,
    output:
        bam=kept_as_bam("results/aligned.bam"),
        bai=kept_as_bam(BAM_INDEX),
        counts="results/reads.json",
        metrics=[temp("results/duplicates.txt")] if config["markdup"] else [],
    log:
        "logs/fq2bam.log",
    conda:
        "../envs/mapping.yaml"
    threads: GPU_THREADS
    resources:
        gpu=GPUS,
        mem_mb=GPU_HOST_MEMORY_MB,
    params:
        depends_on=ALIGNMENT_KEY,
        step=PARABRICKS_STEP,
        options=lambda wildcards, threads: parabricks_options(),
        lanes=lambda wildcards: fq2bam_lanes(),
        offset=QUALITY_OFFSET,
        distance=config["optical_distance"],
        metrics=lambda wildcards, output: " ".join(
            f"--metrics {x}" for x in output.metrics
        ),
    shell:
        "{params.step} fq2bam {params.options:q} --reference {input.reference:q}"
        " {params.lanes:q} --threads {threads} {params.offset}"
        " --optical-distance {params.distance} {params.metrics} --bam {output.bam:q}"
        " --counts {output.counts:q} --error input_error.json 2> {log}"


if config["markdup"]:

    ruleorder: count_duplicates > map

    # In the form of samtools markdup, for the same reports. A rule of its own, so that no GPU is
    # leased meanwhile.
    rule count_duplicates:
        input:
            bam="results/aligned.bam",
            metrics="results/duplicates.txt",
        output:
            "results/markdup.json",
        log:
            "logs/count_duplicates.log",
        conda:
            "../envs/mapping.yaml"
        threads: max(1, min(4, THREADS // 2))
        params:
            depends_on=ALIGNMENT_KEY,
            samtools=SAMTOOLS,
            tell=f"{PYTHON} -m wesemu.genomics.parabricks.duplicates",
        shell:
            "("
            " {params.samtools} flagstat -@ {threads} -O json {input.bam:q} |"
            " {params.tell} --flagstat /dev/stdin --metrics {input.metrics:q}"
            " --output {output:q}"
            ") 2> {log}"
