"""`wesemu doctor --gpu`: the GPUs that tasks may lease, and with --selftest whether they count."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from wesemu.cli.doctor import Finding
from wesemu.gpus import Gpu, Inventory, has_driver, take_inventory
from wesemu.settings import NodeSettings, ParabricksSettings

_READS = 100_000
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
) -> Iterator[Finding]:
    """The driver, each GPU that is lent, and what there is to know about the others. `look` takes
    the place of NVML; `ours` are leased to tasks at the moment."""
    from wesemu.wiring.gpus import choose_gpus

    inventory = _look(look)
    yield from _driver(inventory)
    choice = choose_gpus(settings, ours=ours, look=lambda: inventory)
    for gpu in choice.gpus:
        leased = ", leased now" if gpu.index in ours else ""
        yield Finding(f"GPU {gpu.index}", _facts(gpu) + leased, _origin(gpu))
    told = inventory.problem if inventory.driver is None else None
    notes = [note for note in choice.notes if note != told]
    for number, note in enumerate(notes, start=1):
        yield Finding(f"GPU note {number}", note, "node.gpus")
    if not choice.gpus:
        yield Finding("GPUs", "none is lent", "node.gpus", ok=False)


def examine_parabricks(settings: ParabricksSettings, data: Path) -> Iterator[Finding]:
    """What a step of Parabricks would look at first. Having none of it is no fault: `mapping` and
    `wgs` stay on the CPU then. `data` is the data directory."""
    from wesemu.genomics.parabricks.options import options_from
    from wesemu.genomics.parabricks.preflight import choose_place, parabricks_findings

    options = options_from(settings.model_dump())
    place, found = choose_place(options)
    wanted = settings.runtime != "none" and (settings.runtime != "auto" or bool(settings.image))
    if place is None and not wanted:
        yield Finding("Parabricks", f"none: {found.text}", found.cure)
        return
    for each in parabricks_findings(options):
        yield Finding(
            f"Parabricks {each.subject}", each.text, each.cure, ok=each.verdict != "refused"
        )
    yield _temporary_space(settings, data)


def _temporary_space(settings: ParabricksSettings, data: Path) -> Finding:
    """How much there is; how much is needed depends on the reads, which a step has."""
    name, folder = "Parabricks temporary space", Path(settings.temporary or data)
    if settings.temporary and not (folder.is_dir() and os.access(folder, os.W_OK)):
        return Finding(name, f"{folder} is no folder to write in", "parabricks.temporary", ok=False)
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(place).free / 10**9
    told = f"{free:.1f} GB free in {place}; a sample needs two to three times its FASTQ files"
    return Finding(name, told, "parabricks.temporary")


def selftest(
    settings: NodeSettings,
    pipelines: Path,
    look: Callable[[], Inventory] | None = None,
    reads: int = _READS,
) -> Iterator[Finding]:
    """Run the workflow gpu-selftest on each GPU that is lent and found; one by one."""
    from wesemu.wiring.gpus import choose_gpus

    inventory = _look(look)
    found = {gpu.index for gpu in inventory.gpus}
    lent = choose_gpus(settings, look=lambda: inventory).gpus
    gpus = [gpu for gpu in lent if gpu.index in found]
    if not gpus:
        yield Finding("self-test", _UNTRIED, inventory.problem or _NO_DRIVER, ok=False)
        return
    try:
        from wesemu.genomics.histograms import write_random
    except ImportError:
        yield Finding("self-test", "-", 'pip install "wesemu[cuda]"', ok=False)
        return
    with TemporaryDirectory(prefix="wesemu-gpu-") as folder:
        path = Path(folder) / "reads.fq"
        write_random(path, reads)
        for gpu in gpus:
            yield _try(gpu, pipelines, path, Path(folder) / f"gpu{gpu.index}")


def _try(gpu: Gpu, pipelines: Path, reads: Path, directory: Path) -> Finding:
    from wesemu.engines.tickets import devices_environment
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
        return Finding(name, f"no answer in {_SECONDS} s", "gpu-selftest", ok=False)
    report = directory / "results" / "gpu.json"
    if done.returncode == 0 and report.exists():
        told = json.loads(report.read_text())
        return Finding(name, summary(told), "gpu-selftest", ok=not told["simulated"])
    log = directory / "logs" / "histogram.log"
    talk = log.read_text() if log.exists() else done.stderr
    last = next((line for line in reversed(talk.splitlines()) if line.strip()), "no reason given")
    return Finding(name, last.strip(), "gpu-selftest", ok=False)


def _look(look: Callable[[], Inventory] | None) -> Inventory:
    if look is not None:
        return look()
    return take_inventory() if has_driver() else Inventory(problem=_NO_DRIVER)


def _driver(inventory: Inventory) -> Iterator[Finding]:
    if inventory.driver is None:
        yield Finding("GPU driver", "-", inventory.problem or _NO_DRIVER, ok=False)
        return
    told = f"{inventory.driver}, CUDA up to {inventory.cuda}"
    yield Finding("GPU driver", told, "NVML", ok=True)


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
