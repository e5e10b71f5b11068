if SLICES == 1:

    rule call:
        input:
            bam="results/aligned.bam",
            bai="results/aligned.bam.bai",
            reference=REFERENCE,
            fai=f"{REFERENCE}.fai",
        output:
            vcf=VCF,
            index=VCF_INDEX,
            stats="results/variants.txt",
        log:
            "logs/call.log",
        conda:
            "../envs/calling.yaml"
        params:
            bcftools=BCFTOOLS,
            pileup=PILEUP,
            call=CALL,
            form="-Oz -W=tbi" if COMPRESSED else "-Ov",
        shell:
            "("
            " {params.bcftools} mpileup {params.pileup} -f {input.reference:q} {input.bam:q} |"
            " {params.bcftools} call {params.call} {params.form} -o {output.vcf:q} -;"
            " {params.bcftools} stats {output.vcf:q} |"
            " grep -v '^# The command line' > {output.stats:q}"
            ") 2> {log}"

else:

    # Slice n of N is bases (n-1)/N to n/N of the genome, contigs end to end. A list of regions and
    # not a region's name: names such as HLA-A*01:01:01:01 are no regions.
    rule call_slice:
        input:
            bam="results/aligned.bam",
            bai="results/aligned.bam.bai",
            reference=REFERENCE,
            fai=f"{REFERENCE}.fai",
        output:
            vcf=temp("results/slices/{slice}.vcf.gz"),
            regions=temp("results/slices/{slice}.bed"),
        log:
            "logs/call/{slice}.log",
        conda:
            "../envs/calling.yaml"
        params:
            bcftools=BCFTOOLS,
            pileup=PILEUP,
            call=CALL,
            slices=SLICES,
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
            " {params.bcftools} mpileup {params.pileup} -R {output.regions:q}"
            " -f {input.reference:q} {input.bam:q} |"
            " {params.bcftools} call {params.call} -Oz -o {output.vcf:q} -"
            ") 2> {log}"

    rule gather:
        input:
            [f"results/slices/{number}.vcf.gz" for number in range(1, SLICES + 1)],
        output:
            vcf=VCF,
            index=VCF_INDEX,
            stats="results/variants.txt",
        log:
            "logs/gather.log",
        conda:
            "../envs/calling.yaml"
        params:
            bcftools=BCFTOOLS,
            # the compressed slices are joined as they are
            form="--naive -Oz" if COMPRESSED else "-Ov",
            index=f"index -t {VCF}" if COMPRESSED else "--version",
        shell:
            "("
            " {params.bcftools} concat --no-version {params.form} -o {output.vcf:q} {input:q};"
            " {params.bcftools} {params.index} > /dev/null;"
            " {params.bcftools} stats {output.vcf:q} |"
            " grep -v '^# The command line' > {output.stats:q}"
            ") 2> {log}"
