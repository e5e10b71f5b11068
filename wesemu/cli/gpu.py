"""The GPUs of `wesemu doctor --gpu [--selftest]` and of `wesemu demo --node cuda`."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from wesemu.cli.doctor import HealthCheck
from wesemu.cli.output import print_note
from wesemu.composition import choose_gpus, find_gpus
from wesemu.core import pipelines_folder
from wesemu.demo.run import CudaNode, SelfTest
from wesemu.errors import SystemFault
from wesemu.genomics.parabricks.preflight import (
    LeasedGpu,
    choose_runtime,
    options_from,
    parabricks_findings,
)
from wesemu.node import Gpu, Inventory, NodeSettings, has_driver, take_inventory
from wesemu.settings import ParabricksSettings, Settings

# --- `wesemu demo --node cuda` ---

_READS = 100_000
_SIMULATED_READS = 20
_ALLOWS_NONE = "the setting node.gpus allows none"
_NO_GPU_DRIVER = (
    "there is no NVIDIA driver (no /dev/nvidiactl), and the setting node.gpus names none"
)


def cuda_node(settings: Settings, look: Callable[[], Inventory] = find_gpus) -> CudaNode:
    """Return the demo's GPU node. It has the self-test if Parabricks cannot run here.

    Raise SystemFault if there is no GPU, or if neither Parabricks nor the self-test can run.
    """
    # the demo's tasks run on this machine, whatever executor the settings name
    node = settings.node.model_copy(update={"executor": "local"})
    choice = choose_gpus(node, look=look)
    for note in choice.notes if choice.gpus else ():
        print_note(f"wesemu: {note}")
    if not choice.gpus:
        reason = "; ".join(choice.notes) or (
            _ALLOWS_NONE if node.gpus in (0, []) else _NO_GPU_DRIVER
        )
        raise SystemFault(
            f"the demo finds no GPU: {reason}. `wesemu doctor --gpu` shows details; without "
            "--node the demo runs on the CPU"
        )
    parabricks = _absolute(settings.parabricks)
    problem, installed = _parabricks_problem(parabricks, choice.gpus)
    if problem is None:
        return CudaNode(_server_variables(settings, parabricks))
    print_note(
        f"wesemu: no Parabricks for the demo: {problem}. CPU tools map and call on the node cuda, "
        "and the workflow gpu-selftest uses a GPU"
    )
    if installed:  # without this setting the pipelines would try Parabricks
        parabricks = parabricks.model_copy(update={"runtime": "none"})
    return CudaNode(_server_variables(settings, parabricks), _plan_selftest())


def _parabricks_problem(
    settings: ParabricksSettings, gpus: Sequence[Gpu]
) -> tuple[str | None, bool]:
    """Return why Parabricks cannot run, with the remedy, and whether it is installed."""
    options = options_from(settings.model_dump())
    place, found = choose_runtime(options)
    if place is None:
        return found.text, False
    cards = [LeasedGpu(str(gpu.index), gpu.memory_mb, gpu.driver, gpu.name or "") for gpu in gpus]
    for each in parabricks_findings(options, gpus=cards):
        if each.verdict == "refused":
            return f"{each.text} ({each.cure})", True
    return None, True


def _plan_selftest() -> SelfTest:
    if find_spec("numba_cuda") is None or find_spec("numpy") is None:
        raise SystemFault(
            "the demo needs Parabricks or numba-cuda to use the GPU, and finds neither; "
            'pip install "wesemu[cuda]"'
        )
    simulated = os.environ.get("NUMBA_ENABLE_CUDASIM", "0") != "0"
    workflow = pipelines_folder() / "gpu-selftest" / "workflow"
    return SelfTest(workflow, _SIMULATED_READS if simulated else _READS)


def _absolute(settings: ParabricksSettings) -> ParabricksSettings:
    """Make paths absolute, because the demo's server runs in another folder."""
    places = {"temporary": settings.temporary}
    if settings.image.endswith(".sif"):
        places["image"] = settings.image
    return settings.model_copy(
        update={name: str(Path(place).absolute()) for name, place in places.items() if place}
    )


def _server_variables(settings: Settings, parabricks: ParabricksSettings) -> dict[str, str]:
    """Return the variables of the demo's server: the settings of GPUs and Parabricks only."""
    given = settings.node.model_dump(mode="json", include={"gpus", "lend_busy_gpus"})
    return {
        "WESEMU_NODE": json.dumps(given | {"default": "cuda"}),
        "WESEMU_PARABRICKS": parabricks.model_dump_json(),
    }


# --- `wesemu doctor --gpu` ---

_SELFTEST_SECONDS = 300
_NO_DRIVER = (
    "no NVIDIA driver here (no /dev/nvidiactl): install one, or make the GPUs available in this "
    "container (`docker run --gpus all`, `apptainer exec --nv`)"
)
_NOT_RUN = "not run: no GPU is both found by the driver and allowed by the settings"


def check_gpus(
    settings: NodeSettings,
    look: Callable[[], Inventory] | None = None,
    *,
    in_use: Collection[int] = (),
) -> Iterator[HealthCheck]:
    """Check the driver and each GPU that tasks may lease, with notes about the others.

    `look` replaces NVML in tests. `in_use` are the GPUs that tasks lease at the moment.
    """
    inventory = _take_inventory(look)
    yield from _driver(inventory)
    choice = choose_gpus(settings, ours=in_use, look=lambda: inventory)
    for gpu in choice.gpus:
        leased = ", leased now" if gpu.index in in_use else ""
        yield HealthCheck(f"GPU {gpu.index}", _describe(gpu) + leased, _origin(gpu))
    reported = inventory.problem if inventory.driver is None else None
    notes = [note for note in choice.notes if note != reported]
    for number, note in enumerate(notes, start=1):
        yield HealthCheck(f"GPU note {number}", note, "node.gpus", check=True)
    if not choice.gpus:
        yield HealthCheck("GPUs", "tasks may use none", "node.gpus", ok=False)


def check_parabricks(settings: ParabricksSettings, data: Path) -> Iterator[HealthCheck]:
    """Run the checks that a step of Parabricks starts with. `data` is the data directory.

    Without Parabricks the check passes, because `mapping` and `wgs` then run on the CPU.
    """
    options = options_from(settings.model_dump())
    place, found = choose_runtime(options)
    wanted = settings.runtime != "none" and (settings.runtime != "auto" or bool(settings.image))
    if place is None and not wanted:
        yield HealthCheck("Parabricks", f"none: {found.text}", found.cure, absent=True)
        return
    for each in parabricks_findings(options):
        ok, check = each.verdict != "refused", each.verdict == "unknown"
        yield HealthCheck(f"Parabricks {each.subject}", each.text, each.cure, ok, check)
    yield _temporary_space(settings, data)


def _temporary_space(settings: ParabricksSettings, data: Path) -> HealthCheck:
    """Check the folder for temporary files. The required space depends on the reads."""
    name, folder = "Parabricks temporary space", Path(settings.temporary or data)
    if settings.temporary and not (folder.is_dir() and os.access(folder, os.W_OK)):
        return HealthCheck(
            name, f"{folder} is not a writable folder", "parabricks.temporary", ok=False
        )
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(place).free / 10**9
    space = f"{free:.1f} GB free in {place}; a sample needs two to three times its FASTQ files"
    return HealthCheck(name, space, "parabricks.temporary")


def run_selftests(
    settings: NodeSettings,
    pipelines: Path,
    look: Callable[[], Inventory] | None = None,
    reads: int = _READS,
) -> Iterator[HealthCheck]:
    """Run the workflow gpu-selftest on each detected GPU that tasks may lease, one by one."""
    inventory = _take_inventory(look)
    found = {gpu.index for gpu in inventory.gpus}
    allowed = choose_gpus(settings, look=lambda: inventory).gpus
    gpus = [gpu for gpu in allowed if gpu.index in found]
    if not gpus:
        yield HealthCheck("self-test", _NOT_RUN, inventory.problem or _NO_DRIVER, ok=False)
        return
    try:
        from wesemu.genomics.histograms import write_random
    except ImportError:
        yield HealthCheck("self-test", "-", 'pip install "wesemu[cuda]"', ok=False)
        return
    with TemporaryDirectory(prefix="wesemu-gpu-") as folder:
        path = Path(folder) / "reads.fq"
        write_random(path, reads)
        for gpu in gpus:
            yield _run_selftest(gpu, pipelines, path, Path(folder) / f"gpu{gpu.index}")


def _run_selftest(gpu: Gpu, pipelines: Path, reads: Path, directory: Path) -> HealthCheck:
    from wesemu.engines.lease_queue import devices_environment
    from wesemu.genomics.gpu_selftest import summary

    name = f"self-test GPU {gpu.index}"
    snakefile = pipelines / "gpu-selftest" / "workflow" / "Snakefile"
    command = [sys.executable, "-P", "-m", "snakemake", "--snakefile", str(snakefile), "--cores"]
    command += ["1", "--resources", "gpu=1", "--directory", str(directory)]
    command += ["--config", f"reads={reads}"]
    environment = os.environ | devices_environment([gpu.index])
    directory.mkdir()
    try:
        done = subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            timeout=_SELFTEST_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return HealthCheck(name, f"no answer in {_SELFTEST_SECONDS} s", "gpu-selftest", ok=False)
    report = directory / "results" / "gpu.json"
    if done.returncode == 0 and report.exists():
        result = json.loads(report.read_text())
        return HealthCheck(name, summary(result), "gpu-selftest", ok=not result["simulated"])
    log = directory / "logs" / "histogram.log"
    output = log.read_text() if log.exists() else done.stderr
    last = next((line for line in reversed(output.splitlines()) if line.strip()), "no reason given")
    return HealthCheck(name, last.strip(), "gpu-selftest", ok=False)


def _take_inventory(look: Callable[[], Inventory] | None) -> Inventory:
    if look is not None:
        return look()
    return take_inventory() if has_driver() else Inventory(problem=_NO_DRIVER)


def _driver(inventory: Inventory) -> Iterator[HealthCheck]:
    if inventory.driver is None:
        yield HealthCheck("GPU driver", "-", inventory.problem or _NO_DRIVER, ok=False)
        return
    version = f"{inventory.driver}, CUDA up to {inventory.cuda}"
    yield HealthCheck("GPU driver", version, "NVML")


def _describe(gpu: Gpu) -> str:
    facts = [gpu.name or "of unknown kind"]
    if gpu.memory_mb is not None:
        free = "" if gpu.free_mb is None else f", {gpu.free_mb} free"
        facts.append(f"{gpu.memory_mb} MiB{free}")
    if gpu.processes:
        facts.append(f"{len(gpu.processes)} processes")
    return ", ".join(facts)


def _origin(gpu: Gpu) -> str:
    return "declared in node.gpus" if gpu.uuid is None else gpu.uuid
