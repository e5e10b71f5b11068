if SLICES == 1:

    rule call:
        input:
            bam=BAM,
            bai=f"{BAM}.bai",
            reference=REFERENCE,
            fai=f"{REFERENCE}.fai",
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
        params:
            bcftools=BCFTOOLS,
            call=lambda wildcards, output: call_command(
                output.vcf, VCF_FORM, *output.gvcf
            ),
        shell:
            "("
            " {params.call};"
            " for gvcf in {output.gvcf:q}; do {params.bcftools} index -t $gvcf; done;"
            " {params.bcftools} stats -s - {output.vcf:q} |"
            " grep -v '^# The command line' > {output.stats:q}"
            ") 2> {log}"

else:

    # Slice n of N is bases (n-1)/N to n/N of the genome, contigs end to end. A list of regions and
    # not a region's name: names such as HLA-A*01:01:01:01 are no regions.
    rule call_slice:
        input:
            bam=BAM,
            bai=f"{BAM}.bai",
            reference=REFERENCE,
            fai=f"{REFERENCE}.fai",
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
        params:
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

    # Compressed slices are joined as they are.
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
            bcftools=BCFTOOLS,
            form="--naive -Oz" if COMPRESSED else "-Ov",
        shell:
            "("
            " {params.bcftools} concat --no-version {params.form} -o {output.vcf:q} {input.vcf:q};"
            " for gvcf in {output.gvcf:q}; do"
            " {params.bcftools} concat --naive -Oz -o $gvcf {input.gvcf:q}; done;"
            " for index in {output.index:q} {output.gvcf_index:q}; do"
            " {params.bcftools} index -t ${{index%.tbi}}; done;"
            " {params.bcftools} stats -s - {output.vcf:q} |"
            " grep -v '^# The command line' > {output.stats:q}"
            ") 2> {log}"


rule summary:
    input:
        mapping=SUMMARY,
        variants="results/variants.txt",
    output:
        "results/summary.json",
    log:
        "logs/summary.log",
    conda:
        "../envs/calling.yaml"
    params:
        summarize=f"{PYTHON} -m wesemu.genomics.summary",
        caller=[CALLER.name, CALLER.version],
    shell:
        "{params.summarize} --mapping {input.mapping:q} --variants {input.variants:q}"
        " --caller {params.caller:q} --output {output:q} 2> {log}"
