rule map:
    input:
        reads=[lane[mate] for lane in config["reads"] for mate in MATES if mate in lane],
        reference=REFERENCE,
        index=REFERENCE_INDEX,
        state=REFERENCE_STATE,
    output:
        bam=kept_as_bam("results/aligned.bam"),
        bai=kept_as_bam(BAM_INDEX),
        counts="results/reads.json",
        markdup=["results/markdup.json"] if config["markdup"] else [],
    log:
        "logs/map.log",
    conda:
        "../envs/mapping.yaml"
    threads: THREADS
    resources:
        mem_mb=map_memory_mb,
    params:
        depends_on=ALIGNMENT_KEY,
        align=program("align"),
        lanes=lane_options(),
        later=later_programs(),
        longest=LONGEST_READ,
        offset=QUALITY_OFFSET,
        temporary=TEMPORARY,
        # a function, so that a change to CRAM does not map again
        finish=lambda wildcards, threads, output: finishing(threads, output),
    shell:
        "("
        " mkdir -p {params.temporary}; trap 'rm -rf {params.temporary}' EXIT;"
        " {params.align} --reference {input.reference:q} {params.lanes:q}"
        " {params.later:q} --threads {threads} --longest {params.longest}"
        " {params.offset}"
        " --counts {output.counts:q} --error input_error.json | {params.finish};"
        # the recorded command line differs with the number of threads
        " for figures in {output.markdup:q}; do"
        " grep -v '\"COMMAND\"' {params.temporary}/markdup.json > $figures; done"
        ") 2> {log}"


# Two programs read the BAM in parallel. The rule fails unless the BAM has every counted read.
rule statistics:
    input:
        bam="results/aligned.bam",
        bai=BAM_INDEX,
        counts="results/reads.json",
        markdup=["results/markdup.json"] if config["markdup"] else [],
        reference=REFERENCE,
        fai=f"{REFERENCE}.fai",
        state=REFERENCE_STATE,
    output:
        flagstat="results/flagstat.json",
        text="results/flagstat.txt",
        stats="results/stats.txt",
        idxstats="results/idxstats.txt",
        summary=SUMMARY if SUMMARY.endswith("summary.json") else temp(SUMMARY),
    log:
        "logs/statistics.log",
    conda:
        "../envs/mapping.yaml"
    threads: max(1, min(4, THREADS // 2))
    params:
        depends_on=ALIGNMENT_KEY,
        check=program("qc"),
        samtools=SAMTOOLS,
        sample=SAMPLE,
        libraries=len(LIBRARIES),
        optical=config["optical_distance"] if config["markdup"] else 0,
        markdup=lambda wildcards, input: " ".join(
            f"--markdup {x}" for x in input.markdup
        ),
        mapper=[MAPPED_BY.name, MAPPED_BY.version],
        note=["--note", MAPPED_BY.note] if MAPPED_BY.note else [],
        version=TOOLS.samtools.version,
        # by default samtools counts all deeper bases as 1000 deep
        depths="1,10000000,1",
    shell:
        "("
        " {params.samtools} stats -@ {threads} -c {params.depths} {input.bam:q} |"
        " grep -v '^# The command line' | tee {output.stats:q} |"
        " {params.check} --bam {input.bam:q} --reference {input.reference:q}"
        " --counts {input.counts:q} --stats /dev/stdin"
        " --flagstat <({params.samtools} flagstat -@ {threads} -O json {input.bam:q} ||"
        ' echo "flagstat ended with status $?" >&2)'
        " --flagstat-json {output.flagstat:q} --flagstat-text {output.text:q}"
        " --index {input.bai:q} --idxstats {output.idxstats:q}"
        " {params.markdup} {params.note:q} --summary {output.summary:q}"
        " --sample {params.sample:q} --libraries {params.libraries}"
        " --optical-distance {params.optical}"
        " --tool {params.mapper:q} --tool samtools {params.version:q}"
        " --state {input.state:q} --error input_error.json"
        ") 2> {log}"


# Made from the checked BAM. htslib writes the path of the reference into the header (UR), which
# must not depend on the machine: reheader removes it.
rule cram:
    input:
        bam="results/aligned.bam",
        checked="results/flagstat.json",
        reference=REFERENCE,
        fai=f"{REFERENCE}.fai",
        state=REFERENCE_STATE,
    output:
        cram="results/aligned.cram",
        index="results/aligned.cram.crai",
    log:
        "logs/cram.log",
    conda:
        "../envs/mapping.yaml"
    threads: THREADS
    params:
        depends_on=depends_on(alignments=ALIGNMENT_KEY),
        samtools=SAMTOOLS,
        version=config["cram_version"],
        temporary=f"{TEMPORARY}-cram",
        unchanged=REFERENCE_UNCHANGED,
    shell:
        "("
        " mkdir -p {params.temporary}; trap 'rm -rf {params.temporary}' EXIT;"
        " {params.samtools} view --no-PG -@ {threads} -O cram,version={params.version}"
        " -T {input.reference:q}"
        " -o {params.temporary}/aligned.cram {input.bam:q};"
        " {params.samtools} reheader --no-PG -c 'sed \"s/\\tUR:[^\\t]*//\"'"
        " {params.temporary}/aligned.cram > {output.cram:q};"
        " {params.samtools} index {output.cram:q} {output.index:q};"
        " {params.unchanged}"
        ") 2> {log}"
