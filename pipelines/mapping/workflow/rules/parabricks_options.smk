# What every step of Parabricks is told.
GPUS = config["gpus"]
# each of them is fed by so many threads; a node's other cards want their share
GPU_THREADS = min(THREADS, config["parabricks"].get("threads", 16) * GPUS)
GPU_HOST_MEMORY_MB = 50_000 * GPUS
PARABRICKS_STEP = f"{PYTHON} -m wesemu.genomics.parabricks"


def parabricks_options():
    """They say where a step runs and change no result: given as functions of `threads`, which
    Snakemake does not compare."""
    words = ["--settings", json.dumps(config["parabricks"], sort_keys=True)]
    words += ["--gpus", str(GPUS), "--fault", "accelerator_error.json"]
    if config.get("gpu_memory_mb"):
        words += ["--gpu-memory-mb", str(config["gpu_memory_mb"])]
    if config.get("gpu_driver"):
        words += ["--gpu-driver", config["gpu_driver"]]
    return words
