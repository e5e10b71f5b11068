"""Where a run is carried out: on the CPU, or with GPUs; decided when it is submitted."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, assert_never

from wesemu.engine_parameters import value_of
from wesemu.errors import EngineFault, InvalidRequest
from wesemu.runs.model import PLACE, PLACE_NOTE, JsonObject, Resources, Run
from wesemu.runs.run_directory import Workspace
from wesemu.util.text import whole_number

# How many cores a run may use at a time; what it does use is leased task by task.


_CORES = "cores"

NODE = "node"
"""The engine parameter that says where: auto, cpu or cuda. AGS's field is `wesemu_node`."""

GPUS = "gpus"
"""The engine parameter for the GPUs of a run's tasks. AGS's field is `wesemu_gpus`."""


def cores_of(parameters: Mapping[str, str], node: Resources) -> int:
    """The cores of the engine parameter `cores`, else all of the node's.

    Raises InvalidRequest for a number that the node can never give.
    """
    asked = value_of(parameters, _CORES)
    if asked is None or asked.strip().casefold() == "all":
        return node.cores
    cores = whole_number(asked)
    if cores is None or not 1 <= cores <= node.cores:
        raise InvalidRequest(
            f"the engine parameter cores is {asked[:40]!r}; this node has 1 to {node.cores}",
            field="workflow_engine_parameters.cores",
        )
    return cores


Kind = Literal["auto", "cpu", "cuda"]
WithoutGpu = Literal["queue", "refuse", "cpu"]

_MOST = 1000


@dataclass(frozen=True, slots=True)
class NodeOffer:
    """What the node has, and what becomes of runs that do not say or ask for what it lacks.

    `gpu_memory_mb` (MiB) is what each of its GPUs has at least, `gpu_driver` their driver's
    version; None where that is not known.
    """

    resources: Resources
    default: Kind = "auto"
    without_gpu: WithoutGpu = "refuse"
    gpu_memory_mb: int | None = None
    gpu_driver: str | None = None


@dataclass(frozen=True, slots=True)
class Placement:
    """`kind` is "auto" for a user's workflow whose rules may lease GPUs, each on its own. `note`
    is what the caller has to know."""

    kind: Kind
    resources: Resources
    note: str | None = None

    @property
    def tags(self) -> dict[str, str]:
        """The run's own."""
        tags: dict[str, str] = {PLACE: self.kind}
        return tags if self.note is None else tags | {PLACE_NOTE: self.note}


def place(
    parameters: Mapping[str, str],
    offer: NodeOffer,
    *,
    able: bool = False,
    unable: str | None = None,
) -> Placement:
    """Decide for a request with these engine parameters.

    `able`: the workflow has steps for GPUs; `unable` is why it has none; neither: nobody knows.
    Raises InvalidRequest for what the node can never give.
    """
    asked = _asked_gpus(parameters)
    wanted = _wanted(parameters, offer.default)
    if wanted == "cpu" and asked is not None:
        raise _wrong(GPUS, f"is {asked} beside node = cpu; leave one of them out")
    if wanted == "auto" and asked is not None:
        wanted = "cuda"
    has = offer.resources.gpus
    note = None
    if wanted == "cuda" and not has:
        match offer.without_gpu:
            case "refuse":
                raise _no_gpu(parameters)
            case "queue":
                note = "this node had no GPU when the run came: it waits for a server with one"
            case "cpu":
                note = "asked for cuda; this node has no GPU: THE CPU does it (node.without_gpu)"
                wanted = "cpu"
            case _:
                assert_never(offer.without_gpu)
    elif asked is not None and asked > has:
        raise _wrong(GPUS, f"is {asked}; this node has {has} GPUs")
    if wanted == "cuda" and unable is not None:
        note = "; ".join(filter(None, [note, f"asked for cuda, but {unable}"]))
    elif wanted == "auto":
        wanted = _settle(has, able=able, unable=unable is not None)
    return Placement(wanted, _resources(parameters, offer, wanted, asked), note)


def resources_at_start(run: Run, offer: NodeOffer) -> Resources:
    """The share of a run that begins now: the GPUs of a node change with its server.

    Raises EngineFault for a run that cannot be carried out any more where it was placed.
    """
    if run.tags.get(PLACE) == "cpu":
        return run.resources
    has, least = offer.resources.gpus, run.resources.least_gpus
    if least > has:
        raise EngineFault(
            f"the run needs {least} GPUs, and this server has {has} now; start it with as many "
            "(setting node.gpus) and send the run again"
        )
    if _asked_gpus(run.request.engine_parameters) is not None:
        return run.resources
    if run.resources.gpus == has or PLACE not in run.tags:
        return run.resources
    return Resources(run.resources.cores, run.resources.memory_mb, has, least)


def acceleration(tags: Mapping[str, str], resources: Resources, offer: NodeOffer) -> JsonObject:
    """What a pipeline that takes an `accelerator` is told of it: nothing on the CPU. `tags` are
    those of the run's placement."""
    if tags.get(PLACE) != "cuda":
        return {}
    return {
        "accelerator": "cuda",
        "gpus": resources.least_gpus,
        "gpu_memory_mb": offer.gpu_memory_mb,
        "gpu_driver": offer.gpu_driver,
    }


def write_note(run: Run, workspace: Workspace) -> None:
    """Write the note, if there is one, into the run's own log, before anything else is."""
    note = run.tags.get(PLACE_NOTE)
    if note is not None and PLACE in run.tags:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
        with os.fdopen(os.open(workspace.stderr, flags, 0o644), "a") as log:
            log.write(f"wesemu: {note}\n")


def _resources(
    parameters: Mapping[str, str], offer: NodeOffer, kind: Kind, asked: int | None
) -> Resources:
    cores = cores_of(parameters, offer.resources)
    if kind == "cpu":
        return Resources(cores=cores)
    least = (asked or 1) if kind == "cuda" else 0
    most = least if asked is not None else max(least, offer.resources.gpus)
    return Resources(cores=cores, gpus=most, least_gpus=least)


def _settle(gpus: int, *, able: bool, unable: bool) -> Kind:
    if not gpus or unable:
        return "cpu"
    return "cuda" if able else "auto"


def _wanted(parameters: Mapping[str, str], default: Kind) -> Kind:
    match (value_of(parameters, NODE) or default).strip().casefold():
        case "auto":
            return "auto"
        case "cpu":
            return "cpu"
        case "cuda":
            return "cuda"
        case other:
            raise _wrong(NODE, f"is {other[:40]!r}; it is auto, cpu or cuda")


def _asked_gpus(parameters: Mapping[str, str]) -> int | None:
    if (text := value_of(parameters, GPUS)) is None:
        return None
    number = whole_number(text)
    if number is None or not 1 <= number <= _MOST:
        raise _wrong(GPUS, f"is {text[:40]!r}; it is how many GPUs each task gets, 1 or more")
    return number


def _no_gpu(parameters: Mapping[str, str]) -> InvalidRequest:
    return _wrong(
        GPUS if value_of(parameters, NODE) is None and value_of(parameters, GPUS) else NODE,
        "asks for a GPU, and this node has none; leave it out or write node = cpu. Whoever runs "
        "the server: `wesemu doctor --gpu` tells why, and the setting node.without_gpu has such "
        "runs queued or carried out on the CPU",
    )


def _wrong(name: str, why: str) -> InvalidRequest:
    return InvalidRequest(
        f"the engine parameter {name} {why}", field=f"workflow_engine_parameters.{name}"
    )
