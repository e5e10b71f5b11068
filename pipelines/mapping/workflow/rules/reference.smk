# The reference has one name in the working directory, whatever its path, so that no path of a
# machine gets into a header. An index beside the FASTA is used if it was made from it.
rule prepare_reference:
    input:
        fasta=config["reference"],
        alternates=[str(ALTERNATES)] if ALTERNATES else [],
    output:
        fasta=REFERENCE,
        index=REFERENCE_INDEX,
        state=REFERENCE_STATE,
    log:
        "logs/reference.log",
    conda:
        "../envs/mapping.yaml"
    resources:
        mem_mb=index_memory_mb,
    params:
        depends_on=REFERENCE_KEY,
        prepare=program("prepare_reference"),
        samtools=SAMTOOLS,
        indexer=[INDEXER.name, INDEXER.shell],
        # a function, so that another folder does not run the rule again
        records=lambda wildcards, output: str(REFERENCE_RECORDS),
    shell:
        "{params.prepare} --fasta {input.fasta:q} --output {output.fasta:q}"
        " --state {output.state:q} --samtools {params.samtools:q}"
        " --indexer {params.indexer:q} --records {params.records:q} --error input_error.json"
        " > {log} 2>&1"
