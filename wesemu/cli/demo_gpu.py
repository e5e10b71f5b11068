"""`wesemu demo --node cuda`: what of this machine's GPUs the demo can use."""

import json
import os
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from wesemu.cli.output import tell
from wesemu.demo.cuda import CudaNode, SelfTest
from wesemu.errors import SystemFault
from wesemu.gpus import Gpu, Inventory
from wesemu.settings import ParabricksSettings, Settings
from wesemu.wiring.core import pipelines_folder
from wesemu.wiring.gpus import choose_gpus, look

_READS = 100_000
_SIMULATED_READS = 20
_LENDS_NONE = "the setting node.gpus lends none"
_NO_DRIVER = "there is no NVIDIA driver (no /dev/nvidiactl), and the setting node.gpus names none"


def cuda_node(settings: Settings, look: Callable[[], Inventory] = look) -> CudaNode:
    """The node of the demo: with Parabricks where it can run here, else with the self-test.

    Raises SystemFault where there is no GPU, or nothing that could use it.
    """
    # the demo's tasks run on this machine, whatever executor the settings name
    node = settings.node.model_copy(update={"executor": "local"})
    choice = choose_gpus(node, look=look)
    for note in choice.notes if choice.gpus else ():
        tell(f"wesemu: {note}")
    if not choice.gpus:
        why = "; ".join(choice.notes) or (_LENDS_NONE if node.gpus in (0, []) else _NO_DRIVER)
        raise SystemFault(
            f"the demo finds no GPU: {why}. `wesemu doctor --gpu` tells more; without a GPU "
            "`wesemu demo` shows everything on the CPU"
        )
    parabricks = _absolute(settings.parabricks)
    reason, there = _without_parabricks(parabricks, choice.gpus)
    if reason is None:
        return CudaNode(_variables(settings, parabricks))
    tell(
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
    from wesemu.genomics.parabricks import gpus as seen
    from wesemu.genomics.parabricks.options import options_from
    from wesemu.genomics.parabricks.preflight import choose_place, parabricks_findings

    options = options_from(settings.model_dump())
    place, found = choose_place(options)
    if place is None:
        return found.text, False
    cards = [seen.Gpu(str(gpu.index), gpu.memory_mb, gpu.driver, gpu.name or "") for gpu in gpus]
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
