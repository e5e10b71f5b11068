if PLOIDY_FILE:

    rule ploidy:
        input:
            file=PLOIDY_FILE,
            fai=f"{REFERENCE}.fai",
        output:
            **PLOIDY_FILES,
        log:
            "logs/ploidy.log",
        # a bad file ends the run before the mapping, which takes long
        priority: 100
        conda:
            "../envs/calling.yaml"
        params:
            depends_on=CALLING_KEY,
            prepare=PREPARE,
            reference=REFERENCE,
            sample=SAMPLE,
            caller=config["caller"],
            sex=["--sex", config["sex"]] if config["sex"] else [],
        shell:
            "{params.prepare} ploidy --file {input.file:q} --reference {params.reference}"
            " --sample {params.sample:q} --caller {params.caller} {params.sex:q}"
            " --bcftools {output.bcftools} --freebayes {output.freebayes} --text {output.text}"
            " --default {output.default} --warnings {output.warnings} --error input_error.json 2> {log}"


if TARGETS:

    rule targets:
        input:
            file=config["targets"],
            fai=f"{REFERENCE}.fai",
        output:
            TARGETS,
        log:
            "logs/targets.log",
        priority: 100
        conda:
            "../envs/calling.yaml"
        params:
            depends_on=depends_on(targets=fingerprint(config["targets"])),
            prepare=PREPARE,
            reference=REFERENCE,
        shell:
            "{params.prepare} targets --file {input.file:q} --reference {params.reference}"
            " --output {output} --error input_error.json 2> {log}"

    # Counted by samtools, without duplicates, secondary and failed records.
    rule target_coverage:
        input:
            bam=BAM,
            bai=BAM_INDEX,
            targets=TARGETS,
        output:
            depths=temp("results/target_depths.txt"),
            reads=temp("results/target_reads.txt"),
        log:
            "logs/target_coverage.log",
        conda:
            "../envs/calling.yaml"
        params:
            depends_on=CALLING_KEY,
            samtools=SAMTOOLS,
        shell:
            "("
            # -aa: -a leaves out targets on contigs without reads
            " {params.samtools} depth -aa -J -b {input.targets} {input.bam} |"
            # print of mawk would write 3e+09 for 3,000,000,000 bases
            " awk '{{ bases[$3]++ }} END {{ for (depth in bases)"
            ' printf "%s %.0f\\n", depth, bases[depth] }}\' |'
            " sort -n > {output.depths};"
            # 0xF04: unmapped, secondary, failed, duplicate, supplementary
            " {params.samtools} view -c -F 0xF04 -L {input.targets} {input.bam} > {output.reads}"
            ") 2> {log}"


if SLICES == 1 and not TARGETS:

    rule call:
        input:
            bam=BAM,
            bai=BAM_INDEX,
            reference=REFERENCE,
            fai=f"{REFERENCE}.fai",
            dictionary=DICTIONARY,
            ploidy=PLOIDY_FILES.values(),
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
            temporary=".calling",
            # a function, because a caller on the GPU may replace this rule
            call=lambda wildcards: call_command(
                ".calling/1.vcf.gz", *[".calling/1.g.vcf.gz" for _ in GVCF]
            ),
            join=lambda wildcards: JOIN,
        shell:
            "("
            " rm -rf {params.temporary}; trap 'rm -rf {params.temporary}' EXIT;"
            " mkdir {params.temporary}; temporary={params.temporary}/joined;"
            " {params.call}; {params.join}"
            " join {output.vcf:q} {params.temporary}/1.vcf.gz;"
            " for gvcf in {output.gvcf:q}; do join $gvcf {params.temporary}/1.g.vcf.gz; done;"
            " for index in {output.index:q} {output.gvcf_index:q}; do"
            " {params.bcftools} index --{params.kind} ${{index%.*}}; done;"
            " {params.bcftools} stats -s - {output.vcf:q} |"
            " grep -v '^# The command line' > {output.stats:q}"
            ") 2> {log}"

else:

    # Slice n of N has bases (n-1)/N to n/N of the genome or of the targets, contigs end to end, but
    # for places without reads. It is a BED file, because names such as HLA-A*01:01:01:01 cannot be
    # written as regions.
    rule call_slice:
        input:
            bam=BAM,
            bai=BAM_INDEX,
            reference=REFERENCE,
            fai=f"{REFERENCE}.fai",
            dictionary=DICTIONARY,
            ploidy=PLOIDY_FILES.values(),
            targets=TARGETS,
        output:
            vcf=temp("results/slices/{slice}.vcf.gz"),
            gvcf=[temp("results/slices/{slice}.g.vcf.gz")] if GVCF else [],
            regions=temp("results/slices/{slice}.bed"),
            wide=temp("results/slices/{slice}.wide.bed"),
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
            prepare=PREPARE,
            slices=SLICES,
            margin=MARGIN,
            targets=[f"--targets={name}" for name in TARGETS],
            with_reads=WITH_READS,
            call=lambda wildcards, output: call_command(
                output.vcf, *(output.gvcf or [None]), output.regions, output.wide
            ),
        shell:
            "("
            " trap 'rm -rf {output.vcf}.*' EXIT;"
            " {params.prepare} slice --number {wildcards.slice} --slices {params.slices}"
            " --reference {input.reference} {params.targets} {params.with_reads}"
            " --margin {params.margin}"
            " --regions {output.regions} --wide {output.wide};"
            " {params.call}"
            ") 2> {log}"

    rule gather:
        input:
            vcf=slices_of(".vcf.gz"),
            gvcf=slices_of(".g.vcf.gz") if GVCF else [],
            ploidy=PLOIDY_FILES.values(),
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
            temporary="results/slices/joined",
            join=lambda wildcards: JOIN,
        shell:
            "("
            " trap 'rm -f {params.temporary}.*' EXIT;"
            " temporary={params.temporary}; {params.join}"
            " join {output.vcf:q} {input.vcf:q};"
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
        vcf=VCF,
        ploidy=PLOIDY_FILES.values(),
        targets=(
            ["results/target_depths.txt", "results/target_reads.txt"]
            if TARGETS
            else []
        ),
    output:
        "results/summary.json",
    log:
        "logs/summary.log",
    conda:
        "../envs/calling.yaml"
    params:
        depends_on=CALLING_KEY,
        bcftools=BCFTOOLS,
        summarize=program("summary"),
        caller=[CALLER.name, CALLER.version],
        ploidy=PLOIDY_TEXT,
        more=["--more-warnings", PLOIDY_FILES["warnings"]] if PLOIDY_FILE else [],
        # bcftools stats counts haploid SNPs and indels together
        haploid="no" if PLOIDY == DIPLOID else "yes",
        targets=lambda wildcards, input: (
            ["--targets", *input.targets] if input.targets else []
        ),
    shell:
        "("
        " haploid() {{ [ {params.haploid} = no ] ||"
        ' {params.bcftools} stats -i \'GT="hap" & GT="alt"\' {input.vcf:q}; }};'
        " {params.summarize} --mapping {input.mapping:q} --variants {input.variants:q}"
        ' --caller {params.caller:q} --ploidy "$({params.ploidy})" --haploid <(haploid)'
        " {params.targets:q} {params.more} --output {output:q}"
        " --state {input.state:q} --error input_error.json"
        ") 2> {log}"
