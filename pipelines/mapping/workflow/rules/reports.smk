# Reports for people, on demand. RESULTS are the other files of a run.
REPORT_FILES = {"multiqc": "results/multiqc.html", "snakemake": "results/report.html"}


rule multiqc:
    input:
        reports=[f"results/{name}.txt" for name in ("flagstat", "stats", "idxstats")],
        markdup=["results/markdup.json"] if config["markdup"] else [],
        variants=["results/variants.txt"] if "caller" in config else [],
    output:
        report(REPORT_FILES["multiqc"], category="Quality"),
    log:
        "logs/multiqc.log",
    conda:
        "../envs/mapping.yaml"
    resources:
        mem_mb=1000,
    params:
        # functions of reports are called only where they are made
        depends_on=lambda wildcards: depends_on(
            multiqc=package_version("multiqc"), sample=SAMPLE
        ),
        reports=f"{PYTHON} -m wesemu.genomics.reports",
        sample=SAMPLE,
    shell:
        "{params.reports} --sample {params.sample:q} --output {output:q} {input:q} 2> {log}"


# Snakemake reports on jobs that have ended: the last rule starts a second Snakemake for it.
rule run_report:
    input:
        RESULTS,
        [REPORT_FILES[name] for name in config["reports"] if name != "snakemake"],
    output:
        REPORT_FILES["snakemake"],
    log:
        "logs/report.log",
    conda:
        "../envs/mapping.yaml"
    resources:
        mem_mb=500,
    params:
        depends_on=lambda wildcards: depends_on(snakemake=package_version("snakemake")),
        snakemake=f"{PYTHON} -m snakemake --cores 1 --nolock",
        workflow=str(workflow.main_snakefile),
        # a function: keys that change a result change the input files of this rule too
        config=lambda wildcards, input: json.dumps(
            config
            | {"reports": [name for name in config["reports"] if name != "snakemake"]}
        ),
        temporary=".report.config.json",
    shell:
        "("
        " trap 'rm -f {params.temporary}' EXIT;"
        " printf %s {params.config:q} > {params.temporary};"
        " {params.snakemake} -s {params.workflow:q} --configfile {params.temporary}"
        " --report {output:q}"
        ") > {log} 2>&1"
