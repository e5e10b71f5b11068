if SLICES == 1:

    rule call:
        input:
            bam=BAM,
            bai=BAM_INDEX,
            reference=REFERENCE,
            fai=f"{REFERENCE}.fai",
            dictionary=DICTIONARY,
        output:
            vcf=VCF,
            index=VCF_INDEX,
            gvcf=GVCF,
            gvcf_index=GVCF_INDEX,
            stats="results/variants.txt",
        log:
            "logs/call.log",
        conda:
            "../envs/calling.yaml"
        resources:
            mem_mb=CALL_MEMORY,
        params:
            depends_on=CALLING_KEY,
            bcftools=BCFTOOLS,
            kind=VCF_INDEX_FORMAT,
            call=lambda wildcards, output: call_command(
                output.vcf, VCF_FORM, *output.gvcf
            ),
        shell:
            "("
            " {params.call};"
            " for gvcf in {output.gvcf:q}; do {params.bcftools} index --{params.kind} $gvcf; done;"
            " {params.bcftools} stats -s - {output.vcf:q} |"
            " grep -v '^# The command line' > {output.stats:q}"
            ") 2> {log}"

else:

    # Slice n of N is bases (n-1)/N to n/N of the genome, contigs end to end. A list of regions and
    # not a region's name: names such as HLA-A*01:01:01:01 are no regions.
    rule call_slice:
        input:
            bam=BAM,
            bai=BAM_INDEX,
            reference=REFERENCE,
            fai=f"{REFERENCE}.fai",
            dictionary=DICTIONARY,
        output:
            vcf=temp("results/slices/{slice}.vcf.gz"),
            gvcf=[temp("results/slices/{slice}.g.vcf.gz")] if GVCF else [],
            regions=temp("results/slices/{slice}.bed"),
        log:
            "logs/call/{slice}.log",
        wildcard_constraints:
            slice=r"\d+",
        conda:
            "../envs/calling.yaml"
        resources:
            mem_mb=CALL_MEMORY,
        params:
            depends_on=CALLING_KEY,
            slices=SLICES,
            call=lambda wildcards, output: call_command(
                output.vcf, "-Oz", *(output.gvcf or [None]), output.regions
            ),
        shell:
            "("
            " awk -F '\\t' -v OFS='\\t' -v slice={wildcards.slice} -v slices={params.slices} '"
            " FNR == NR {{ total += $2; next }}"
            " FNR == 1 {{ size = int((total + slices - 1) / slices);"
            " from = (slice - 1) * size; to = slice * size }}"
            " {{ first = from - done; last = to - done; done += $2;"
            " if (first < 0) first = 0; if (last > $2) last = $2;"
            " if (first < last) print $1, first, last }}"
            "' {input.fai:q} {input.fai:q} > {output.regions:q};"
            " {params.call}"
            ") 2> {log}"

    # Compressed slices are joined as they are, under the first one's header without its region.
    rule gather:
        input:
            vcf=slices_of(".vcf.gz"),
            gvcf=slices_of(".g.vcf.gz") if GVCF else [],
        output:
            vcf=VCF,
            index=VCF_INDEX,
            gvcf=GVCF,
            gvcf_index=GVCF_INDEX,
            stats="results/variants.txt",
        log:
            "logs/gather.log",
        conda:
            "../envs/calling.yaml"
        params:
            depends_on=CALLING_KEY,
            bcftools=BCFTOOLS,
            kind=VCF_INDEX_FORMAT,
            compressed=int(COMPRESSED),
            temporary="results/slices/joined",
        shell:
            "("
            " trap 'rm -f {params.temporary}.*' EXIT;"
            " name_command() {{ sed '/^##/ s/ -R [^ ]*[.]bed//'; }};"
            " join() {{ to=$1; first=$2; shift 2;"
            " {params.bcftools} head $first | name_command > {params.temporary}.header;"
            " {params.bcftools} reheader -h {params.temporary}.header"
            " -o {params.temporary}.vcf.gz $first;"
            " {params.bcftools} concat --naive -Oz -o $to {params.temporary}.vcf.gz $@; }};"
            " case {params.compressed} in"
            " 1) join {output.vcf:q} {input.vcf:q} ;;"
            " 0) {params.bcftools} concat --no-version -Ov {input.vcf:q} |"
            " name_command > {output.vcf:q} ;;"
            " esac;"
            " for gvcf in {output.gvcf:q}; do join $gvcf {input.gvcf:q}; done;"
            " for index in {output.index:q} {output.gvcf_index:q}; do"
            " {params.bcftools} index --{params.kind} ${{index%.*}}; done;"
            " {params.bcftools} stats -s - {output.vcf:q} |"
            " grep -v '^# The command line' > {output.stats:q}"
            ") 2> {log}"


if DICTIONARY:

    rule dictionary:
        input:
            REFERENCE,
        output:
            DICTIONARY,
        log:
            "logs/dictionary.log",
        conda:
            "../envs/calling.yaml"
        params:
            depends_on=REFERENCE_KEY,
            samtools=SAMTOOLS,
        shell:
            "{params.samtools} dict {input:q} 2> {log} | sed 's/\\tUR:[^\\t]*//' > {output:q}"


rule summary:
    input:
        mapping=SUMMARY,
        variants="results/variants.txt",
        state=REFERENCE_STATE,
    output:
        "results/summary.json",
    log:
        "logs/summary.log",
    conda:
        "../envs/calling.yaml"
    params:
        depends_on=CALLING_KEY,
        summarize=f"{PYTHON} -m wesemu.genomics.summary",
        caller=[CALLER.name, CALLER.version],
        unchanged=REFERENCE_UNCHANGED,
    shell:
        "("
        " {params.unchanged};"
        " {params.summarize} --mapping {input.mapping:q} --variants {input.variants:q}"
        " --caller {params.caller:q} --output {output:q}"
        ") 2> {log}"
