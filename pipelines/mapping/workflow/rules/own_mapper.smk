# A mapper that the user brings as a command line replaces bwa in the same pipe.
USES_GPU = uses_gpu(OWN_MAPPER["name"], OWN_MAPPER["command"])
OWN_GPUS = config["gpus"] if ON_GPU and USES_GPU else 0


def own_mapper_options():
    options = ["--name", OWN_MAPPER["name"], "--command", OWN_MAPPER["command"]]
    options += ["--gpus", str(OWN_GPUS)]
    return options + reads_and_groups()


ruleorder: own_map > map


use rule map as own_map with:
    log:
        "logs/own_map.log",
    resources:
        gpu=OWN_GPUS,
        mem_mb=map_memory_mb,
    params:
        depends_on=ALIGNMENT_KEY,
        align=f"{PYTHON} -m wesemu.genomics.own_mapper",
        samtools=SAMTOOLS,
        # a function, so that another number of GPUs does not map again
        lanes=lambda wildcards, threads: own_mapper_options(),
        later=later_programs(),
        longest=LONGEST_READ,
        offset=QUALITY_OFFSET,
        temporary=TEMPORARY,
        memory=lambda wildcards, threads: max(64, config["sort_memory_mb"] // threads),
        finish=finishing(),
        label=program("read_groups"),
        duplicates=markdup_options(),
        # a function, so that a change to CRAM does not map again
        level=lambda wildcards, threads: bam_level(),
