"""Bundled pipelines: checks requests, finds inputs, names outputs, and configures runs.

The parts of this module are GPU support, the configuration of a run, tool settings, and
`BundledPipelines`, which plans and prepares runs.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from wesemu.engine_parameters import engines_own
from wesemu.errors import InvalidRequest, WesemuError
from wesemu.genomics.parabricks.preflight import choose_runtime, options_from
from wesemu.genomics.ploidy import can_call
from wesemu.genomics.reference_records import index_format, listed_index_format, may_need_csi
from wesemu.runs.model import (
    JsonObject,
    JsonValue,
    Placement,
    Resources,
    Run,
    RunFailure,
    RunRequest,
)
from wesemu.runs.ports import LaunchRequest, Plan, ProgressCallback, Results
from wesemu.runs.run_directory import Workspace
from wesemu.storage.buckets import Buckets
from wesemu.workflows.inputs import Inputs, LaneFiles, ReferenceIndexer, RunFiles
from wesemu.workflows.locations import Locations, RunInputs
from wesemu.workflows.outputs import Publications
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

# GPU support: the schema of a pipeline's configuration declares it.

_SCHEMA = "workflow/schemas/config.schema.yaml"
_KEY = "accelerator"
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def gpu_problem(pipeline: Path) -> str | None:
    """Return why a pipeline cannot use a GPU; None if it has the parameter `accelerator`."""
    if any(_KEY in schema.get("properties", {}) for schema in _schemas(pipeline / _SCHEMA)):
        return None
    return f"the pipeline {pipeline.name} has no steps for GPUs: the CPU runs it"


def _schemas(path: Path) -> Iterator[dict[str, Any]]:
    """Yield a schema and the schemas that it includes with `allOf`."""
    status = path.stat()
    schema = _load_schema(path, status.st_mtime_ns, status.st_size)
    yield schema
    for part in schema.get("allOf", []):
        if isinstance(reference := part.get("$ref"), str):
            yield from _schemas(path.parent / reference)


@lru_cache(maxsize=16)
def _load_schema(path: Path, _modified: int, _size: int) -> dict[str, Any]:
    """Parse a schema; a changed file is parsed anew."""
    schema: dict[str, Any] = yaml.load(path.read_text(), Loader=_LOADER)  # noqa: S506  # a safe loader
    return schema


# The configuration of a run.


def configuration(
    params: MappingParams,
    lanes: Sequence[LaneFiles],
    reference: Path,
    more_files: Mapping[str, Path],
    records: Path,
) -> JsonObject:
    """Return the configuration of a run, as the pipeline's schema requires it.

    `reference` is indexed, except for a dry run. `more_files` are those of `params.more_files`.
    `records` is the folder of `ReferenceRecords`. Blocks. Raise InputError.
    """
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
        config |= {name: str(path) for name, path in more_files.items()}
        config["vcf"] = "calls.vcf" if params.is_plain else "calls.vcf.gz"
    return config


@dataclass(frozen=True, slots=True)
class ToolConfig:
    """Tool settings.

    `parabricks` is that part of the pipelines' configuration; `mappers` are command templates by
    name, `commands` those of the pipelines' tools.
    """

    parabricks: JsonObject = field(default_factory=dict)
    mappers: Mapping[str, str] = field(default_factory=dict)
    commands: Mapping[str, str] = field(default_factory=dict)


def check_mapper(params: MappingParams, tools: ToolConfig) -> None:
    """Raise InvalidRequest for an unknown mapper."""
    known = [*MAPPERS, *tools.mappers]
    if params.mapper not in known:
        raise InvalidRequest(
            f"there is no {params.mapper!r}; use one of {', '.join(known)}. The setting "
            "mappers adds others",
            field="mapper",
        )


def parabricks_problem(params: MappingParams, tools: ToolConfig) -> str | None:
    """Return why the pipelines' GPU steps cannot run here; None if they can."""
    named = isinstance(params, WgsParams) and params.caller in ("haplotypecaller", "deepvariant")
    if params.mapper in tools.mappers and not named:
        return None
    runtime, checked = choose_runtime(options_from(tools.parabricks))
    return None if runtime else f"there is no Parabricks ({checked.text}): the CPU runs it"


def mapper_of(params: MappingParams, gpu_config: JsonObject) -> str:
    """Return the program that reads the reference's index.

    On GPUs, Parabricks' fq2bam replaces bwa and reads bwa's index. This does not depend on the
    mapper that replaces bwa on the CPU of this machine.
    """
    return "fq2bam" if gpu_config and params.mapper == "bwa" else params.mapper


def add_tool_settings(config: JsonObject, params: MappingParams, tools: ToolConfig) -> JsonObject:
    """Return the configuration with the tool settings of its mapper and accelerator."""
    added: JsonObject = {}
    if tools.commands:
        added["tools"] = dict(tools.commands)
    if (template := tools.mappers.get(params.mapper)) is not None:
        # The pipeline runs the command in place of bwa and uses bwa's index.
        added["mapper"] = "bwa"
        added["own_mapper"] = {"name": params.mapper, "command": template}
    cuda = config.get("accelerator") == "cuda"
    if cuda:
        added["parabricks"] = dict(tools.parabricks)
    if isinstance(params, WgsParams) and cuda and _uses_gpu_default(params):
        runtime, _ = choose_runtime(options_from(tools.parabricks))
        if runtime is not None:
            added["caller"] = GPU_CALLERS[0]
    return config | added


def _uses_gpu_default(params: WgsParams) -> bool:
    """Return True if no caller is named and the GPU's caller supports the ploidy."""
    return "caller" not in params.model_fields_set and can_call(GPU_CALLERS[0], params.ploidy)


class BundledPipelines:
    """Plans and prepares runs of the pipelines below `pipelines`."""

    def __init__(
        self,
        pipelines: Path,
        inputs: Inputs,
        buckets: Buckets,
        indexer: ReferenceIndexer,
        node: NodeOffer,
        locations: Locations | None = None,
        stager: InputStager | None = None,
        tools: ToolConfig | None = None,
        gpu_problem: Callable[[Path], str | None] = gpu_problem,
    ) -> None:
        """`gpu_problem` returns why the pipeline in a folder cannot use GPUs here, or None."""
        self._pipelines = pipelines
        self._inputs = inputs
        self._publications = Publications(buckets, locations or Locations())
        self._indexer = indexer
        self._locations = locations or Locations()
        self._stager = stager or InputStager(None)
        self._node = node
        self._gpu_problem = gpu_problem
        self._tools = tools or ToolConfig()

    async def plan(self, engine: str, request: RunRequest, attachments: Path | None) -> Plan:
        """Check the request and return its plan.

        Raise InvalidRequest, BucketNotFound, ObjectNotFound, ReferenceNotFound.
        """
        params = await asyncio.to_thread(parse_params, request)
        return await asyncio.to_thread(self._plan, engine, request, params, attachments)

    def _plan(
        self, engine: str, request: RunRequest, params: MappingParams, attachments: Path | None
    ) -> Plan:
        check_mapper(params, self._tools)
        inputs, files = self._locations.inputs(params), RunFiles(attachments)
        # Until a run starts, remote inputs are not fetched: the checks cover the local ones.
        lanes = self._inputs.lanes(inputs.reads, files)
        reference = self._inputs.reference(inputs.reference, files)
        short = reference is not None and not may_need_csi(reference)
        publications = self._publications.of(params, is_short=short)
        reads = [path for lane in lanes for path in lane.names]
        more_files = self._inputs.more(inputs.more_files, files)
        check_names(inputs, {reference, *reads, *more_files.values()}, publications)
        check_wildcards(inputs, _names(lanes) | _names_of_more_files(inputs, more_files))
        check_calling(params, more_files, reference)
        check_read_groups(params, lanes)
        gpu_problem = self._gpu_problem_of(params, request.workflow_url)
        placement, resources = place(
            request.engine_parameters,
            self._node,
            gpu_capable=gpu_problem is None,
            gpu_problem=gpu_problem,
        )
        check_tools(
            params,
            cuda=placement.kind == "cuda" and gpu_problem is None,
            commands=self._tools.commands,
        )
        if reference is not None and listed_index_format(reference) == "csi":
            check_long_contigs(params, cuda=placement.kind == "cuda" and gpu_problem is None)
        return Plan(
            engine=engine,
            workflow=request.workflow_url,
            service_level=params.service,
            resources=resources,
            publications=publications,
            input_bytes=(
                None
                if any(pair.is_remote for pair in inputs.reads)
                else sum(path.stat().st_size for path in reads)
            ),
            placement=placement,
        )

    async def prepare(
        self, run: Run, workspace: Workspace, report: ProgressCallback
    ) -> LaunchRequest:
        """Fetch and index what the run needs, and return the launch request.

        Raise InputError for a reference that cannot be indexed and for inputs that cannot be
        fetched; NotFound for files that are gone; RemoteFault, SystemFault.
        """
        params = parse_params(run.request)
        resources = resources_at_start(run, self._node)
        inputs = self._locations.inputs(params)
        await self._stager.stage(inputs.remote, workspace.inputs, report)
        # Everything is local now: find all files, and repeat the checks that `_plan` skipped.
        files = _run_files(workspace)
        lanes = await asyncio.to_thread(self._inputs.lanes, inputs.reads, files)
        fasta = await asyncio.to_thread(self._inputs.reference, inputs.reference, files)
        assert fasta is not None, "remote inputs have been fetched"
        check_wildcards(inputs, _names(lanes))  # the files of a remote folder are known only now
        check_read_groups(params, lanes)
        more_files = await asyncio.to_thread(self._inputs.more, inputs.more_files, files)
        gpu_config = await self._gpu_config(params, run.workflow, run.placement, resources)
        mapper = mapper_of(params, gpu_config)
        reference = await self._indexer.ready(fasta, inputs.reference.name, mapper)
        await asyncio.to_thread(check_calling, params, more_files, reference)
        input_bytes = await asyncio.to_thread(_input_bytes, lanes)
        await asyncio.to_thread(write_note, run, workspace)
        config = await self._configure(params, lanes, reference, more_files, gpu_config)
        return self._job(run.request, workspace, resources, config, input_bytes)

    async def prepare_dry_run(
        self, plan: Plan, request: RunRequest, workspace: Workspace
    ) -> tuple[LaunchRequest, dict[str, str]] | None:
        """Return the launch request of a dry run and the caller's names by file.

        The reference is not indexed. Return None if an input is remote: a dry run fetches nothing.
        """
        params = parse_params(request)
        inputs = self._locations.inputs(params)
        if inputs.remote:
            return None
        files = _run_files(workspace)
        lanes = await asyncio.to_thread(self._inputs.lanes, inputs.reads, files)
        fasta = await asyncio.to_thread(self._inputs.reference, inputs.reference, files)
        assert fasta is not None, "nothing is remote"
        more_files = await asyncio.to_thread(self._inputs.more, inputs.more_files, files)
        gpu_config = await self._gpu_config(
            params, request.workflow_url, plan.placement, plan.resources
        )
        config = await self._configure(params, lanes, fasta, more_files, gpu_config)
        job = self._job(request, workspace, plan.resources, config, plan.input_bytes)
        names = {
            **_names(lanes),
            **_names_of_more_files(inputs, more_files),
            fasta: params.reference,
        }
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

    async def cleanup(self, workspace: Workspace) -> None:
        await self._stager.cleanup(workspace.inputs)

    def _gpu_problem_of(self, params: MappingParams, workflow: str) -> str | None:
        """Return why the run cannot use GPUs, or None."""
        return self._gpu_problem(self._pipelines / workflow) or parabricks_problem(
            params, self._tools
        )

    async def _gpu_config(
        self,
        params: MappingParams,
        workflow: str,
        placement: Placement | None,
        resources: Resources,
    ) -> JsonObject:
        """Return the GPU part of the configuration."""
        if await asyncio.to_thread(self._gpu_problem_of, params, workflow) is not None:
            return {}
        return acceleration(placement, resources, self._node)

    async def _configure(
        self,
        params: MappingParams,
        lanes: Sequence[LaneFiles],
        reference: Path,
        more_files: Mapping[str, Path],
        gpu_config: JsonObject,
    ) -> JsonObject:
        """Return the pipeline's configuration."""
        records = self._indexer.records_folder
        config = await asyncio.to_thread(
            configuration, params, lanes, reference, more_files, records
        )
        if config["index_format"] == "csi":
            check_long_contigs(params, cuda=bool(gpu_config))
        return add_tool_settings(config | gpu_config, params, self._tools)

    async def results(self, workspace: Workspace) -> Results:
        """Return read counts and tags. Raise EngineFault if the pipeline left no counts."""
        return await asyncio.to_thread(read_results, workspace)

    async def describe_failure(self, run: Run, workspace: Workspace) -> RunFailure | None:
        """Return the pipeline's message about its failure, with the caller's file names."""
        return await asyncio.to_thread(self._describe_failure, run, workspace)

    def _describe_failure(self, run: Run, workspace: Workspace) -> RunFailure | None:
        def names() -> dict[Path, str]:
            names: dict[Path, str] = {}
            # An input may have been removed meanwhile; the failure has another cause.
            with suppress(WesemuError, OSError):
                inputs = self._locations.inputs(parse_params(run.request))
                files = _run_files(workspace)
                if (fasta := self._inputs.reference(inputs.reference, files)) is not None:
                    names[fasta] = inputs.reference.name
                names |= _names(self._inputs.lanes(inputs.reads, files))
            return names

        return input_failure(workspace.work, names) or gpu_failure(workspace.work)


def _names_of_more_files(inputs: RunInputs, more_files: Mapping[str, Path]) -> dict[Path, str]:
    """Return the caller's names by file."""
    return {
        more_files[each.field]: each.name for each in inputs.more_files if each.field in more_files
    }


def _run_files(workspace: Workspace) -> RunFiles:
    return RunFiles(workspace.attachments, workspace.inputs)


def _input_bytes(lanes: Sequence[LaneFiles]) -> int:
    return sum(path.stat().st_size for lane in lanes for path in lane.names)


def _names(lanes: Sequence[LaneFiles]) -> dict[Path, str]:
    """Return the caller's names by file."""
    return {path: name for lane in lanes for path, name in lane.names.items()}
