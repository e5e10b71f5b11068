"""What the settings add to a pipeline's configuration: Parabricks, the commands of tools, and
mappers by command line."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from wesemu.errors import InvalidRequest
from wesemu.genomics.parabricks.options import options_from
from wesemu.genomics.parabricks.preflight import choose_place
from wesemu.genomics.ploidy import can_call
from wesemu.runs.model import JsonObject
from wesemu.workflows.params import GPU_CALLERS, MAPPERS, MappingParams, WgsParams


@dataclass(frozen=True, slots=True)
class OwnTools:
    """`parabricks` as the pipelines' configuration has it; `mappers` are command templates by
    name, `commands` those of the tools that the pipelines know."""

    parabricks: JsonObject = field(default_factory=dict)
    mappers: Mapping[str, str] = field(default_factory=dict)
    commands: Mapping[str, str] = field(default_factory=dict)


def check_mapper(params: MappingParams, tools: OwnTools) -> None:
    """Raises InvalidRequest for a mapper that nobody here knows."""
    known = [*MAPPERS, *tools.mappers]
    if params.mapper not in known:
        raise InvalidRequest(
            f"mapper: there is no {params.mapper!r}; there are {', '.join(known)}. The setting "
            "mappers adds others",
            field="mapper",
        )


def without_parabricks(params: MappingParams, tools: OwnTools) -> str | None:
    """Why the pipelines' steps for GPUs cannot run here; None where they can."""
    named = isinstance(params, WgsParams) and params.caller in ("haplotypecaller", "deepvariant")
    if params.mapper in tools.mappers and not named:
        return None
    place, found = choose_place(options_from(tools.parabricks))
    return None if place else f"there is no Parabricks ({found.text}): the CPU does it"


def mapper_on(params: MappingParams, accelerated: JsonObject) -> str:
    """The program that will read the reference's index: on GPUs Parabricks' fq2bam in place of
    bwa, whose index it reads, whatever maps in place of bwa on this machine's CPU."""
    return "fq2bam" if accelerated and params.mapper == "bwa" else params.mapper


def check_caller(params: WgsParams) -> None:
    """Raises InvalidRequest for a caller that needs a GPU: the run has none."""
    if params.caller in GPU_CALLERS:
        raise InvalidRequest(
            f"the caller {params.caller} is Parabricks' and runs on a CUDA node only; choose "
            "gatk, another caller or a CUDA node",
            field="caller",
        )


def add_own_tools(config: JsonObject, params: MappingParams, tools: OwnTools) -> JsonObject:
    """`config`, which says whether the run is on a GPU, with what that and the mapper need."""
    added: JsonObject = {}
    if tools.commands:
        added["tools"] = dict(tools.commands)
    if (template := tools.mappers.get(params.mapper)) is not None:
        added["mapper"] = "bwa"
        added["own_mapper"] = {"name": params.mapper, "command": template}
    cuda = config.get("accelerator") == "cuda"
    if cuda:
        added["parabricks"] = dict(tools.parabricks)
    if isinstance(params, WgsParams) and cuda and _takes_default(params):
        place, _ = choose_place(options_from(tools.parabricks))
        if place is not None:
            added["caller"] = GPU_CALLERS[0]
    return config | added


def _takes_default(params: WgsParams) -> bool:
    """Whether the GPU's own caller may call: no other is named, and it can call the ploidy."""
    return "caller" not in params.model_fields_set and can_call(GPU_CALLERS[0], params.ploidy)
