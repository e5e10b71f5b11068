# Options of all steps of Parabricks.
GPUS = config["gpus"]
# threads for each GPU; the other GPUs of a node need threads too
GPU_THREADS = min(THREADS, config["parabricks"].get("threads", 16) * GPUS)
GPU_HOST_MEMORY_MB = 50_000 * GPUS
PARABRICKS_STEP = f"{PYTHON} -m wesemu.genomics.parabricks"


def parabricks_options():
    """Return options that change no result. Rules pass them as functions of `threads`, which
    Snakemake does not compare."""
    options = ["--settings", json.dumps(config["parabricks"], sort_keys=True)]
    options += ["--gpus", str(GPUS), "--fault", "accelerator_error.json"]
    if config.get("gpu_memory_mb"):
        options += ["--gpu-memory-mb", str(config["gpu_memory_mb"])]
    if config.get("gpu_driver"):
        options += ["--gpu-driver", config["gpu_driver"]]
    return options
