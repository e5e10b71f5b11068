"""The bundled pipelines: parameters checked, inputs found, outputs named."""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from wesemu.engine_parameters import engines_own
from wesemu.errors import InvalidRequest
from wesemu.genomics.parabricks.preflight import choose_place, options_from
from wesemu.genomics.ploidy import can_call
from wesemu.genomics.reference_records import index_format, listed_index_format, may_need_csi
from wesemu.runs.model import (
    JsonObject,
    JsonValue,
    OutputFile,
    Resources,
    Run,
    RunFailure,
    RunRequest,
)
from wesemu.runs.ports import Delivery, LaunchRequest, Plan, ProgressCallback, Results
from wesemu.runs.run_directory import Workspace
from wesemu.storage.buckets import Buckets
from wesemu.storage.remote import redacted_url
from wesemu.workflows.inputs import Inputs, LaneFiles, ReferenceIndexer, RunFiles
from wesemu.workflows.locations import RemoteLocations
from wesemu.workflows.outputs import Deliveries, Publications
from wesemu.workflows.params import GPU_CALLERS, MAPPERS, MappingParams, WgsParams, parse_params
from wesemu.workflows.placement import (
    NodeOffer,
    acceleration,
    place,
    resources_at_start,
    write_note,
)
from wesemu.workflows.results import (
    check_calling,
    check_long_contigs,
    check_names,
    check_read_groups,
    check_tools,
    check_wildcards,
    gpu_failure,
    input_failure,
    read_results,
)
from wesemu.workflows.staging import InputStager

# Whether a bundled pipeline can use GPUs: its configuration's schema says so.


_SCHEMA = "workflow/schemas/config.schema.yaml"
_KEY = "accelerator"
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def gpu_problem(pipeline: Path) -> str | None:
    """Why the pipeline in that folder has no use for a GPU; None where it takes an accelerator."""
    if any(_KEY in schema.get("properties", {}) for schema in _schemas(pipeline / _SCHEMA)):
        return None
    return f"the pipeline {pipeline.name} has no steps for GPUs: the CPU does them"


def _schemas(path: Path) -> Iterator[dict[str, Any]]:
    """The schema and those that it refers to as a whole."""
    schema: dict[str, Any] = yaml.load(path.read_text(), Loader=_LOADER)  # noqa: S506  # a safe one
    yield schema
    for part in schema.get("allOf", []):
        if isinstance(reference := part.get("$ref"), str):
            yield from _schemas(path.parent / reference)


# The configuration of a bundled pipeline, as its schema wants it.


def configuration(
    params: MappingParams,
    lanes: Sequence[LaneFiles],
    reference: Path,
    more: Mapping[str, Path],
    records: Path,
) -> JsonObject:
    """`reference` is indexed, unless it is for a dry run; `more` are the files of
    `params.more_files`; `records` is where `ReferenceRecords`
    keeps what it knows. Blocks. Raises InputError."""
    reads: list[JsonValue] = []
    for lane in lanes:
        entry: JsonObject = {"first": str(lane.first)}
        if lane.second is None:
            entry["interleaved"] = True
        else:
            entry["second"] = str(lane.second)
        if lane.read_group is not None:
            entry["read_group"] = lane.read_group
        reads.append(entry)
    config: JsonObject = {
        "sample": params.sample,
        "reads": reads,
        "reference": str(reference),
        "reference_records": str(records),
        "index_format": index_format(reference, records),
        "quality_offset": params.quality_offset,
        "mapper": params.mapper,
        "markdup": params.markdup,
        "optical_distance": params.optical_distance,
        "bam_level": params.bam_level,
        "alignment": params.alignment,
        "cram_version": params.cram_version,
        "reports": [*params.chosen_reports],
    }
    if isinstance(params, WgsParams):
        config["caller"] = params.caller
        config["gvcf"] = params.gvcf_file or False
        config["ploidy"] = params.ploidy
        config["sex"] = params.sex
        config["targets"] = None
        config |= {name: str(path) for name, path in more.items()}
        config["vcf"] = "calls.vcf" if params.is_plain else "calls.vcf.gz"
    return config


# What the settings add to a pipeline's configuration: Parabricks, the commands of tools, and
# mappers by command line.


@dataclass(frozen=True, slots=True)
class ToolConfig:
    """`parabricks` as the pipelines' configuration has it; `mappers` are command templates by
    name, `commands` those of the tools that the pipelines know."""

    parabricks: JsonObject = field(default_factory=dict)
    mappers: Mapping[str, str] = field(default_factory=dict)
    commands: Mapping[str, str] = field(default_factory=dict)


def check_mapper(params: MappingParams, tools: ToolConfig) -> None:
    """Raises InvalidRequest for a mapper that nobody here knows."""
    known = [*MAPPERS, *tools.mappers]
    if params.mapper not in known:
        raise InvalidRequest(
            f"mapper: there is no {params.mapper!r}; there are {', '.join(known)}. The setting "
            "mappers adds others",
            field="mapper",
        )


def without_parabricks(params: MappingParams, tools: ToolConfig) -> str | None:
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


def add_own_tools(config: JsonObject, params: MappingParams, tools: ToolConfig) -> JsonObject:
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


class BundledPipelines:
    """Plans runs of the pipelines below `pipelines` on a node."""

    def __init__(
        self,
        pipelines: Path,
        inputs: Inputs,
        buckets: Buckets,
        indexer: ReferenceIndexer,
        offer: NodeOffer,
        elsewhere: RemoteLocations | None = None,
        stager: InputStager | None = None,
        deliveries: Deliveries | None = None,
        tools: ToolConfig | None = None,
        unable: Callable[[Path], str | None] = gpu_problem,
    ) -> None:
        """`unable` tells why the pipeline in a folder has no use for GPUs here, or None."""
        self._pipelines = pipelines
        self._inputs = inputs
        self._publications = Publications(buckets, elsewhere or RemoteLocations())
        self._indexer = indexer
        self._elsewhere = elsewhere or RemoteLocations()
        self._stager = stager or InputStager(self._elsewhere, None)
        self._deliveries = deliveries or Deliveries(self._elsewhere)
        self._offer = offer
        self._unable = unable
        self._tools = tools or ToolConfig()

    async def plan(self, engine: str, request: RunRequest, attachments: Path | None) -> Plan:
        """Raises InvalidRequest, BucketNotFound, ObjectNotFound, ReferenceNotFound."""
        params = await asyncio.to_thread(parse_params, request)
        return await asyncio.to_thread(self._plan, engine, request, params, attachments)

    def _plan(
        self, engine: str, request: RunRequest, params: MappingParams, attachments: Path | None
    ) -> Plan:
        check_mapper(params, self._tools)
        files = RunFiles(attachments)
        found = self._inputs.lanes(params, files)
        reference = self._inputs.reference(params.reference, files)
        short = reference is not None and not may_need_csi(reference)
        publications = self._publications.of(params, is_short=short)
        reads = [path for lane in found for path in lane.names]
        more = self._inputs.more(params, files)
        check_names(params, {reference, *reads, *more.values()}, publications)
        check_wildcards(params, _names(found) | _more_names(params, more))
        check_calling(params, more, reference)
        check_read_groups(params, found)
        unable = self._hindrance(params, request.workflow_url)
        placement = place(
            request.engine_parameters, self._offer, able=unable is None, unable=unable
        )
        check_tools(
            params,
            cuda=placement.kind == "cuda" and unable is None,
            commands=self._tools.commands,
        )
        if reference is not None and listed_index_format(reference) == "csi":
            check_long_contigs(params, cuda=placement.kind == "cuda" and unable is None)
        return Plan(
            engine=engine,
            workflow=request.workflow_url,
            service_level=params.service,
            resources=placement.resources,
            publications=publications,
            input_bytes=(
                None
                if self._inputs.has_remote(params)
                else sum(path.stat().st_size for path in reads)
            ),
            tags=placement.tags,
        )

    async def prepare(
        self, run: Run, workspace: Workspace, tell: ProgressCallback
    ) -> LaunchRequest:
        """Raises InputError for a reference that cannot be indexed and for what cannot be
        fetched; NotFound for what is gone; RemoteFault, SystemFault."""
        params = parse_params(run.request)
        resources = resources_at_start(run, self._offer)
        await self._stager.stage(params, workspace.inputs, tell)
        files = _files(workspace)
        lanes = await asyncio.to_thread(self._inputs.lanes, params, files)
        fasta = await asyncio.to_thread(self._inputs.reference, params.reference, files)
        assert fasta is not None, "what is remote has been fetched"
        check_wildcards(params, _names(lanes))  # a remote folder is known only now
        check_read_groups(params, lanes)
        more = await asyncio.to_thread(self._inputs.more, params, files)
        accelerated = await self._acceleration(params, run.workflow, run.tags, resources)
        mapper = mapper_on(params, accelerated)
        reference = await self._indexer.ready(fasta, redacted_url(params.reference), mapper)
        await asyncio.to_thread(check_calling, params, more, reference)
        input_bytes = await asyncio.to_thread(_sizes, lanes)
        await asyncio.to_thread(write_note, run, workspace)
        config = await self._configure(params, lanes, reference, more, accelerated)
        return self._job(run.request, workspace, resources, config, input_bytes)

    async def sketch(
        self, plan: Plan, request: RunRequest, workspace: Workspace
    ) -> tuple[LaunchRequest, dict[str, str]] | None:
        """The job of a dry run, whose reference is as it lies there, and the caller's names for
        the files. None where an input lies elsewhere: a dry run fetches nothing."""
        params = parse_params(request)
        others = (params.reference, *params.more_files.values())
        if self._inputs.has_remote(params) or any(map(self._elsewhere.is_remote, others)):
            return None
        files = _files(workspace)
        lanes = await asyncio.to_thread(self._inputs.lanes, params, files)
        fasta = await asyncio.to_thread(self._inputs.reference, params.reference, files)
        assert fasta is not None, "nothing is remote"
        more = await asyncio.to_thread(self._inputs.more, params, files)
        accelerated = await self._acceleration(
            params, request.workflow_url, plan.tags, plan.resources
        )
        config = await self._configure(params, lanes, fasta, more, accelerated)
        job = self._job(request, workspace, plan.resources, config, plan.input_bytes)
        names = {**_names(lanes), **_more_names(params, more), fasta: params.reference}
        return job, {str(path): name for path, name in names.items()}

    def _job(
        self,
        request: RunRequest,
        workspace: Workspace,
        resources: Resources,
        config: JsonObject,
        input_bytes: int | None,
    ) -> LaunchRequest:
        return LaunchRequest(
            run_id=workspace.root.name,
            workspace=workspace,
            workflow_file=self._pipelines / request.workflow_url / "workflow" / "Snakefile",
            config=config,
            resources=resources,
            engine_parameters=engines_own(request.engine_parameters),
            input_bytes=input_bytes,
        )

    async def deliver(
        self, workspace: Workspace, outputs: Sequence[OutputFile], tell: ProgressCallback
    ) -> Delivery:
        return await self._deliveries.deliver(workspace, outputs, tell)

    async def cleanup(self, run: Run, workspace: Workspace) -> None:
        await self._stager.cleanup(workspace.inputs)
        await self._deliveries.abort_uploads(run.id, workspace)

    def _hindrance(self, params: MappingParams, workflow: str) -> str | None:
        """Why GPUs are of no use to the run."""
        return self._unable(self._pipelines / workflow) or without_parabricks(params, self._tools)

    async def _acceleration(
        self, params: MappingParams, workflow: str, tags: Mapping[str, str], resources: Resources
    ) -> JsonObject:
        """What the configuration says of GPUs; `tags` say where the run is carried out."""
        if await asyncio.to_thread(self._hindrance, params, workflow) is not None:
            return {}
        return acceleration(tags, resources, self._offer)

    async def _configure(
        self,
        params: MappingParams,
        lanes: Sequence[LaneFiles],
        reference: Path,
        more: Mapping[str, Path],
        accelerated: JsonObject,
    ) -> JsonObject:
        """The pipeline's configuration."""
        records = self._indexer.records_folder
        config = await asyncio.to_thread(configuration, params, lanes, reference, more, records)
        if config["index_format"] == "csi":
            check_long_contigs(params, cuda=bool(accelerated))
        return add_own_tools(config | accelerated, params, self._tools)

    async def results(self, workspace: Workspace) -> Results:
        """Exact counts of the reads. Raises EngineFault where the pipeline left none."""
        return await asyncio.to_thread(read_results, workspace)

    async def describe_failure(self, run: Run, workspace: Workspace) -> RunFailure | None:
        """What the pipeline says of a bad input, in the caller's own names for the files."""
        return await asyncio.to_thread(self._describe_failure, run, workspace)

    def _describe_failure(self, run: Run, workspace: Workspace) -> RunFailure | None:
        def names() -> dict[Path, str]:
            params, files = parse_params(run.request), _files(workspace)
            names = _names(self._inputs.lanes(params, files))
            fasta = self._inputs.reference(params.reference, files)
            return names if fasta is None else names | {fasta: redacted_url(params.reference)}

        return input_failure(workspace.work, names) or gpu_failure(workspace.work)


def _more_names(params: MappingParams, more: Mapping[str, Path]) -> dict[Path, str]:
    """The caller's names by file."""
    return {path: redacted_url(params.more_files[field]) for field, path in more.items()}


def _files(workspace: Workspace) -> RunFiles:
    return RunFiles(workspace.attachments, workspace.inputs)


def _sizes(lanes: Sequence[LaneFiles]) -> int:
    return sum(path.stat().st_size for lane in lanes for path in lane.names)


def _names(lanes: Sequence[LaneFiles]) -> dict[Path, str]:
    """The caller's names by file."""
    return {path: name for lane in lanes for path, name in lane.names.items()}
