"""`wesemu doctor --gpu`: the GPUs that tasks may lease, and with --selftest whether they count."""

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
from wesemu.node import Gpu, Inventory, has_driver, take_inventory
from wesemu.settings import NodeSettings, ParabricksSettings, Settings

# `wesemu demo --node cuda`: what of this machine's GPUs the demo can use.


_READS = 100_000
_SIMULATED_READS = 20
_LENDS_NONE = "the setting node.gpus lends none"
_NO_GPU_DRIVER = (
    "there is no NVIDIA driver (no /dev/nvidiactl), and the setting node.gpus names none"
)


def cuda_node(settings: Settings, look: Callable[[], Inventory] = find_gpus) -> CudaNode:
    """The node of the demo: with Parabricks where it can run here, else with the self-test.

    Raises SystemFault where there is no GPU, or nothing that could use it.
    """
    # the demo's tasks run on this machine, whatever executor the settings name
    node = settings.node.model_copy(update={"executor": "local"})
    choice = choose_gpus(node, look=look)
    for note in choice.notes if choice.gpus else ():
        print_note(f"wesemu: {note}")
    if not choice.gpus:
        why = "; ".join(choice.notes) or (_LENDS_NONE if node.gpus in (0, []) else _NO_GPU_DRIVER)
        raise SystemFault(
            f"the demo finds no GPU: {why}. `wesemu doctor --gpu` tells more; without a GPU "
            "`wesemu demo` shows everything on the CPU"
        )
    parabricks = _absolute(settings.parabricks)
    reason, there = _without_parabricks(parabricks, choice.gpus)
    if reason is None:
        return CudaNode(_variables(settings, parabricks))
    print_note(
        f"wesemu: no Parabricks for the demo: {reason}. The CPU's tools map and call on the node "
        "cuda, and the workflow gpu-selftest uses a GPU"
    )
    if there:
        parabricks = parabricks.model_copy(update={"runtime": "none"})
    return CudaNode(_variables(settings, parabricks), _selftest())


def _without_parabricks(
    settings: ParabricksSettings, gpus: Sequence[Gpu]
) -> tuple[str | None, bool]:
    """Why Parabricks cannot be used, with the cure, and whether the pipelines would try it
    nevertheless."""
    from wesemu.genomics.parabricks import preflight as seen
    from wesemu.genomics.parabricks.preflight import choose_place, options_from, parabricks_findings

    options = options_from(settings.model_dump())
    place, found = choose_place(options)
    if place is None:
        return found.text, False
    cards = [
        seen.LeasedGpu(str(gpu.index), gpu.memory_mb, gpu.driver, gpu.name or "") for gpu in gpus
    ]
    for each in parabricks_findings(options, gpus=cards):
        if each.verdict == "refused":
            return f"{each.text} ({each.cure})", True
    return None, True


def _selftest() -> SelfTest:
    if find_spec("numba_cuda") is None or find_spec("numpy") is None:
        raise SystemFault(
            "the demo does without Parabricks here and has no numba-cuda, so nothing would use "
            "the GPU; "
            'pip install "wesemu[cuda]"'
        )
    simulated = os.environ.get("NUMBA_ENABLE_CUDASIM", "0") != "0"
    workflow = pipelines_folder() / "gpu-selftest" / "workflow"
    return SelfTest(workflow, _SIMULATED_READS if simulated else _READS)


def _absolute(settings: ParabricksSettings) -> ParabricksSettings:
    """The demo's server works in another folder."""
    places = {"temporary": settings.temporary}
    if settings.image.endswith(".sif"):
        places["image"] = settings.image
    return settings.model_copy(
        update={name: str(Path(place).absolute()) for name, place in places.items() if place}
    )


def _variables(settings: Settings, parabricks: ParabricksSettings) -> dict[str, str]:
    """Of all settings only what tells of the GPUs and of Parabricks."""
    given = settings.node.model_dump(mode="json", include={"gpus", "lend_busy_gpus"})
    return {
        "WESEMU_NODE": json.dumps(given | {"default": "cuda"}),
        "WESEMU_PARABRICKS": parabricks.model_dump_json(),
    }


_SECONDS = 300
_NO_DRIVER = (
    "no NVIDIA driver here (no /dev/nvidiactl): install one, or pass the GPUs on to this container "
    "(`docker run --gpus all`, `apptainer exec --nv`)"
)
_UNTRIED = "not tried: there is no GPU that the driver tells of and the settings lend"


def examine_gpus(
    settings: NodeSettings,
    look: Callable[[], Inventory] | None = None,
    *,
    ours: Collection[int] = (),
) -> Iterator[HealthCheck]:
    """The driver, each GPU that is lent, and what there is to know about the others. `look` takes
    the place of NVML; `ours` are leased to tasks at the moment."""
    from wesemu.composition import choose_gpus

    inventory = _look(look)
    yield from _driver(inventory)
    choice = choose_gpus(settings, ours=ours, look=lambda: inventory)
    for gpu in choice.gpus:
        leased = ", leased now" if gpu.index in ours else ""
        yield HealthCheck(f"GPU {gpu.index}", _facts(gpu) + leased, _origin(gpu))
    told = inventory.problem if inventory.driver is None else None
    notes = [note for note in choice.notes if note != told]
    for number, note in enumerate(notes, start=1):
        yield HealthCheck(f"GPU note {number}", note, "node.gpus")
    if not choice.gpus:
        yield HealthCheck("GPUs", "none is lent", "node.gpus", ok=False)


def examine_parabricks(settings: ParabricksSettings, data: Path) -> Iterator[HealthCheck]:
    """What a step of Parabricks would look at first. Having none of it is no fault: `mapping` and
    `wgs` stay on the CPU then. `data` is the data directory."""
    from wesemu.genomics.parabricks.preflight import choose_place, options_from, parabricks_findings

    options = options_from(settings.model_dump())
    place, found = choose_place(options)
    wanted = settings.runtime != "none" and (settings.runtime != "auto" or bool(settings.image))
    if place is None and not wanted:
        yield HealthCheck("Parabricks", f"none: {found.text}", found.cure)
        return
    for each in parabricks_findings(options):
        yield HealthCheck(
            f"Parabricks {each.subject}", each.text, each.cure, ok=each.verdict != "refused"
        )
    yield _temporary_space(settings, data)


def _temporary_space(settings: ParabricksSettings, data: Path) -> HealthCheck:
    """How much there is; how much is needed depends on the reads, which a step has."""
    name, folder = "Parabricks temporary space", Path(settings.temporary or data)
    if settings.temporary and not (folder.is_dir() and os.access(folder, os.W_OK)):
        return HealthCheck(
            name, f"{folder} is no folder to write in", "parabricks.temporary", ok=False
        )
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(place).free / 10**9
    told = f"{free:.1f} GB free in {place}; a sample needs two to three times its FASTQ files"
    return HealthCheck(name, told, "parabricks.temporary")


def run_selftests(
    settings: NodeSettings,
    pipelines: Path,
    look: Callable[[], Inventory] | None = None,
    reads: int = _READS,
) -> Iterator[HealthCheck]:
    """Run the workflow gpu-selftest on each GPU that is lent and found; one by one."""
    from wesemu.composition import choose_gpus

    inventory = _look(look)
    found = {gpu.index for gpu in inventory.gpus}
    lent = choose_gpus(settings, look=lambda: inventory).gpus
    gpus = [gpu for gpu in lent if gpu.index in found]
    if not gpus:
        yield HealthCheck("self-test", _UNTRIED, inventory.problem or _NO_DRIVER, ok=False)
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
            yield _try(gpu, pipelines, path, Path(folder) / f"gpu{gpu.index}")


def _try(gpu: Gpu, pipelines: Path, reads: Path, directory: Path) -> HealthCheck:
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
            command, env=environment, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return HealthCheck(name, f"no answer in {_SECONDS} s", "gpu-selftest", ok=False)
    report = directory / "results" / "gpu.json"
    if done.returncode == 0 and report.exists():
        told = json.loads(report.read_text())
        return HealthCheck(name, summary(told), "gpu-selftest", ok=not told["simulated"])
    log = directory / "logs" / "histogram.log"
    talk = log.read_text() if log.exists() else done.stderr
    last = next((line for line in reversed(talk.splitlines()) if line.strip()), "no reason given")
    return HealthCheck(name, last.strip(), "gpu-selftest", ok=False)


def _look(look: Callable[[], Inventory] | None) -> Inventory:
    if look is not None:
        return look()
    return take_inventory() if has_driver() else Inventory(problem=_NO_DRIVER)


def _driver(inventory: Inventory) -> Iterator[HealthCheck]:
    if inventory.driver is None:
        yield HealthCheck("GPU driver", "-", inventory.problem or _NO_DRIVER, ok=False)
        return
    told = f"{inventory.driver}, CUDA up to {inventory.cuda}"
    yield HealthCheck("GPU driver", told, "NVML", ok=True)


def _facts(gpu: Gpu) -> str:
    facts = [gpu.name or "of unknown kind"]
    if gpu.memory_mb is not None:
        free = "" if gpu.free_mb is None else f", {gpu.free_mb} free"
        facts.append(f"{gpu.memory_mb} MiB{free}")
    if gpu.processes:
        facts.append(f"{len(gpu.processes)} processes")
    return ", ".join(facts)


def _origin(gpu: Gpu) -> str:
    return "declared in node.gpus" if gpu.uuid is None else gpu.uuid
