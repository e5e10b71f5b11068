# The reference under one name in the working directory, whatever it is called elsewhere: so no
# path of a machine gets into a header. An index beside the FASTA is used if it was made of it.
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
        prepare=f"{PYTHON} -m wesemu.genomics.prepare_reference",
        samtools=SAMTOOLS,
        indexer=[INDEXER.name, INDEXER.shell],
        # a function, so that another folder is no reason to run again
        records=lambda wildcards, output: str(REFERENCE_RECORDS),
    shell:
        "{params.prepare} --fasta {input.fasta:q} --output {output.fasta:q}"
        " --state {output.state:q} --samtools {params.samtools:q}"
        " --indexer {params.indexer:q} --records {params.records:q} --error input_error.json"
        " > {log} 2>&1"
