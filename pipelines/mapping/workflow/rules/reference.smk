# The reference under one name in the working directory, whatever it is called elsewhere: so no
# path of a machine gets into a header.
if index_fault(config["reference"], INDEXER.name) is None:

    rule link_reference:
        input:
            fasta=config["reference"],
            index=multiext(config["reference"], ".fai", *SUFFIXES),
        output:
            fasta=REFERENCE,
            index=multiext(REFERENCE, ".fai", *SUFFIXES),
        log:
            "logs/reference.log",
        conda:
            "../envs/mapping.yaml"
        params:
            depends_on=REFERENCE_KEY,
            suffixes=[".fai", *SUFFIXES],
            alternates=lambda wildcards, input: f"{input.fasta}.alt",
        shell:
            "("
            " ln -sf {input.fasta:q} {output.fasta:q};"
            " for suffix in {params.suffixes};"
            " do ln -sf {input.fasta:q}$suffix {output.fasta:q}$suffix; done;"
            " if [ -e {params.alternates:q} ]; then"
            " ln -sf {params.alternates:q} {output.fasta:q}.alt; fi"
            ") > {log} 2>&1"

else:

    rule index_reference:
        input:
            fasta=config["reference"],
        output:
            fasta=REFERENCE,
            index=multiext(REFERENCE, ".fai", *SUFFIXES),
        log:
            "logs/reference.log",
        conda:
            "../envs/mapping.yaml"
        params:
            depends_on=REFERENCE_KEY,
            samtools=SAMTOOLS,
            indexer=INDEXER.shell,
        shell:
            "("
            " case $(head -c 2 {input.fasta:q} | od -An -tx1 | tr -d ' ') in"
            " 1f8b) gzip -dc {input.fasta:q} > {output.fasta:q} ;;"
            " *) ln -sf {input.fasta:q} {output.fasta:q} ;;"
            " esac;"
            " {params.samtools} faidx {output.fasta:q} & faidx=$!;"
            " {params.indexer} index {output.fasta:q};"
            " wait $faidx"
            ") > {log} 2>&1"
