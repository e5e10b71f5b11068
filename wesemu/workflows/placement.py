"""Placement: whether a run uses the CPU or GPUs, and its cores; decided at submission."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, assert_never

from wesemu.engine_parameters import value_of
from wesemu.errors import EngineFault, InvalidRequest
from wesemu.runs.model import JsonObject, NodeKind, Placement, Resources, Run
from wesemu.runs.run_directory import Workspace
from wesemu.util.text import whole_number

_CORES = "cores"

NODE = "node"
"""Engine parameter for the placement: auto, cpu or cuda. AGS's field is `wesemu_node`."""

GPUS = "gpus"
"""Engine parameter for the number of GPUs per task. AGS's field is `wesemu_gpus`."""


def cores_of(parameters: Mapping[str, str], resources: Resources) -> int:
    """Return the cores that the engine parameter `cores` sets; by default all of the node's.

    This limits the run; leases grant the cores task by task. Raise InvalidRequest for a number that
    the node does not have.
    """
    requested = value_of(parameters, _CORES)
    if requested is None or requested.strip().casefold() == "all":
        return resources.cores
    cores = whole_number(requested)
    if cores is None or not 1 <= cores <= resources.cores:
        raise InvalidRequest(
            f"it is {requested[:40]!r}; this node has 1 to {resources.cores}",
            field="workflow_engine_parameters.cores",
        )
    return cores


WithoutGpu = Literal["queue", "refuse", "cpu"]

_MAX_GPUS = 1000


@dataclass(frozen=True, slots=True)
class NodeOffer:
    """Resources of the node, and the defaults of placement.

    `gpu_memory_mb` (MiB) is the smallest memory of its GPUs, `gpu_driver` the driver's version;
    both None if unknown.
    """

    resources: Resources
    default: NodeKind = "auto"
    without_gpu: WithoutGpu = "refuse"
    gpu_memory_mb: int | None = None
    gpu_driver: str | None = None


def place(
    parameters: Mapping[str, str],
    node: NodeOffer,
    *,
    gpu_capable: bool = False,
    gpu_problem: str | None = None,
) -> tuple[Placement, Resources]:
    """Choose the placement and the resources of a request.

    `gpu_capable`: the workflow has GPU steps. `gpu_problem`: the reason why it cannot use a GPU.
    Without both, it is unknown whether the workflow uses GPUs. Raise InvalidRequest for resources
    that the node does not have.
    """
    requested = _requested_gpus(parameters)
    kind = _requested_kind(parameters, node.default)
    if kind == "cpu" and requested is not None:
        raise _parameter_error(GPUS, f"is {requested} beside node = cpu; leave one of them out")
    if kind == "auto" and requested is not None:
        kind = "cuda"
    has = node.resources.gpus
    note = None
    if kind == "cuda" and not has:
        match node.without_gpu:
            case "refuse":
                raise _no_gpu(parameters)
            case "queue":
                note = "this node had no GPU when the run came: it waits for a server with one"
            case "cpu":
                note = "asked for cuda; this node has no GPU: the CPU runs it (node.without_gpu)"
                kind = "cpu"
            case _:
                assert_never(node.without_gpu)
    elif requested is not None and requested > has:
        raise _parameter_error(GPUS, f"is {requested}; this node has {has} GPUs")
    if kind == "cuda" and gpu_problem is not None:
        note = "; ".join(filter(None, [note, f"asked for cuda, but {gpu_problem}"]))
    elif kind == "auto":
        kind = _auto_kind(has, gpu_capable=gpu_capable, problem=gpu_problem is not None)
    return Placement(kind, note), _resources(parameters, node, kind, requested)


def resources_at_start(run: Run, node: NodeOffer) -> Resources:
    """Return the resources of a run that starts now: the server's GPUs may have changed.

    Raise EngineFault if the node has fewer GPUs than the run needs.
    """
    if run.placement is not None and run.placement.kind == "cpu":
        return run.resources
    has, least = node.resources.gpus, run.resources.least_gpus
    if least > has:
        raise EngineFault(
            f"the run needs {least} GPUs, and this server has {has} now; start it with as many "
            "(setting node.gpus) and send the run again"
        )
    if _requested_gpus(run.request.engine_parameters) is not None:
        return run.resources
    if run.resources.gpus == has or run.placement is None:
        return run.resources
    return Resources(run.resources.cores, run.resources.memory_mb, has, least)


def acceleration(placement: Placement | None, resources: Resources, node: NodeOffer) -> JsonObject:
    """Return the GPU part of the pipeline's configuration, empty on the CPU."""
    if placement is None or placement.kind != "cuda":
        return {}
    return {
        "accelerator": "cuda",
        "gpus": resources.least_gpus,
        "gpu_memory_mb": node.gpu_memory_mb,
        "gpu_driver": node.gpu_driver,
    }


def write_note(run: Run, workspace: Workspace) -> None:
    """Append the placement's note, if any, to the run's log."""
    if run.placement is not None and run.placement.note is not None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
        with os.fdopen(os.open(workspace.stderr, flags, 0o644), "a") as log:
            log.write(f"wesemu: {run.placement.note}\n")


def _resources(
    parameters: Mapping[str, str], node: NodeOffer, kind: NodeKind, requested: int | None
) -> Resources:
    cores = cores_of(parameters, node.resources)
    if kind == "cpu":
        return Resources(cores=cores)
    least = (requested or 1) if kind == "cuda" else 0
    most = least if requested is not None else max(least, node.resources.gpus)
    return Resources(cores=cores, gpus=most, least_gpus=least)


def _auto_kind(gpus: int, *, gpu_capable: bool, problem: bool) -> NodeKind:
    if not gpus or problem:
        return "cpu"
    return "cuda" if gpu_capable else "auto"


def _requested_kind(parameters: Mapping[str, str], default: NodeKind) -> NodeKind:
    match (value_of(parameters, NODE) or default).strip().casefold():
        case "auto":
            return "auto"
        case "cpu":
            return "cpu"
        case "cuda":
            return "cuda"
        case other:
            raise _parameter_error(NODE, f"is {other[:40]!r}; write auto, cpu or cuda")


def _requested_gpus(parameters: Mapping[str, str]) -> int | None:
    if (text := value_of(parameters, GPUS)) is None:
        return None
    number = whole_number(text)
    if number is None or not 1 <= number <= _MAX_GPUS:
        raise _parameter_error(
            GPUS, f"is {text[:40]!r}; write how many GPUs each task gets, 1 or more"
        )
    return number


def _no_gpu(parameters: Mapping[str, str]) -> InvalidRequest:
    return _parameter_error(
        GPUS if value_of(parameters, NODE) is None and value_of(parameters, GPUS) else NODE,
        "asks for a GPU, and this node has none; leave it out or write node = cpu. On the "
        "server, `wesemu doctor --gpu` shows the reason, and the setting node.without_gpu lets "
        "such runs wait or use the CPU",
    )


def _parameter_error(name: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"it {why}", field=f"workflow_engine_parameters.{name}")
