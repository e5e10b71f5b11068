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
        # a function, so that another number of GPUs does not map again
        lanes=lambda wildcards, threads: own_mapper_options(),
        later=later_programs(),
        longest=LONGEST_READ,
        offset=QUALITY_OFFSET,
        temporary=TEMPORARY,
        finish=lambda wildcards, threads, output: finishing(threads, output),
