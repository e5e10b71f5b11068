"""The bundled pipelines: parameters checked, inputs found, outputs named."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from wesemu.engine_parameters import engines_own
from wesemu.genomics.index_format import listed_index_format, may_need_csi
from wesemu.objects.buckets import Buckets
from wesemu.runs.model import JsonObject, OutputFile, Resources, Run, RunFailure, RunRequest
from wesemu.runs.ports import Delivery, Job, Plan, Results, Tell
from wesemu.runs.workspace import Workspace
from wesemu.transfers.source import shown
from wesemu.workflows.accelerated import (
    OwnTools,
    add_own_tools,
    check_mapper,
    mapper_on,
    without_parabricks,
)
from wesemu.workflows.accelerators import hindrance
from wesemu.workflows.calling import check_calling
from wesemu.workflows.checks import (
    check_long_contigs,
    check_names,
    check_read_groups,
    check_tools,
    check_wildcards,
)
from wesemu.workflows.configuration import configuration
from wesemu.workflows.delivery import Deliveries
from wesemu.workflows.elsewhere import Elsewhere
from wesemu.workflows.findings import gpu_failure, input_failure, read_results
from wesemu.workflows.indexing import ReferenceIndexer
from wesemu.workflows.inputs import Inputs, LaneFiles, RunFiles
from wesemu.workflows.params import MappingParams, parse_params
from wesemu.workflows.placement import Offer, acceleration, place, settled, write_note
from wesemu.workflows.publications import Publications
from wesemu.workflows.staging import Stage


class BundledPipelines:
    """Plans runs of the pipelines below `pipelines` on a node."""

    def __init__(
        self,
        pipelines: Path,
        inputs: Inputs,
        buckets: Buckets,
        indexer: ReferenceIndexer,
        offer: Offer,
        elsewhere: Elsewhere | None = None,
        stage: Stage | None = None,
        deliveries: Deliveries | None = None,
        tools: OwnTools | None = None,
        unable: Callable[[Path], str | None] = hindrance,
    ) -> None:
        """`unable` tells why the pipeline in a folder has no use for GPUs here, or None."""
        self._pipelines = pipelines
        self._inputs = inputs
        self._publications = Publications(buckets, elsewhere or Elsewhere())
        self._indexer = indexer
        self._elsewhere = elsewhere or Elsewhere()
        self._stage = stage or Stage(self._elsewhere, None)
        self._deliveries = deliveries or Deliveries(self._elsewhere)
        self._offer = offer
        self._unable = unable
        self._tools = tools or OwnTools()

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

    async def prepare(self, run: Run, workspace: Workspace, tell: Tell) -> Job:
        """Raises InputError for a reference that cannot be indexed and for what cannot be
        fetched; NotFound for what is gone; RemoteFault, SystemFault."""
        params = parse_params(run.request)
        resources = settled(run, self._offer)
        await self._stage.bring(params, workspace.inputs, tell)
        files = _files(workspace)
        lanes = await asyncio.to_thread(self._inputs.lanes, params, files)
        fasta = await asyncio.to_thread(self._inputs.reference, params.reference, files)
        assert fasta is not None, "what is remote has been fetched"
        check_wildcards(params, _names(lanes))  # a remote folder is known only now
        check_read_groups(params, lanes)
        more = await asyncio.to_thread(self._inputs.more, params, files)
        accelerated = await self._acceleration(params, run.workflow, run.tags, resources)
        mapper = mapper_on(params, accelerated)
        reference = await self._indexer.ready(fasta, shown(params.reference), mapper)
        await asyncio.to_thread(check_calling, params, more, reference)
        input_bytes = await asyncio.to_thread(_sizes, lanes)
        await asyncio.to_thread(write_note, run, workspace)
        config = await self._configure(params, lanes, reference, more, accelerated)
        return self._job(run.request, workspace, resources, config, input_bytes)

    async def sketch(
        self, plan: Plan, request: RunRequest, workspace: Workspace
    ) -> tuple[Job, dict[str, str]] | None:
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
    ) -> Job:
        return Job(
            run_id=workspace.root.name,
            workspace=workspace,
            workflow_file=self._pipelines / request.workflow_url / "workflow" / "Snakefile",
            config=config,
            resources=resources,
            engine_parameters=engines_own(request.engine_parameters),
            input_bytes=input_bytes,
        )

    async def deliver(
        self, workspace: Workspace, outputs: Sequence[OutputFile], tell: Tell
    ) -> Delivery:
        return await self._deliveries.deliver(workspace, outputs, tell)

    async def release(self, run: Run, workspace: Workspace) -> None:
        await self._stage.release(workspace.inputs)
        await self._deliveries.forget(run.id, workspace)

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

    async def explain(self, run: Run, workspace: Workspace) -> RunFailure | None:
        """What the pipeline says of a bad input, in the caller's own names for the files."""
        return await asyncio.to_thread(self._explain, run, workspace)

    def _explain(self, run: Run, workspace: Workspace) -> RunFailure | None:
        def names() -> dict[Path, str]:
            params, files = parse_params(run.request), _files(workspace)
            names = _names(self._inputs.lanes(params, files))
            fasta = self._inputs.reference(params.reference, files)
            return names if fasta is None else names | {fasta: shown(params.reference)}

        return input_failure(workspace.work, names) or gpu_failure(workspace.work)


def _more_names(params: MappingParams, more: Mapping[str, Path]) -> dict[Path, str]:
    """The caller's names by file."""
    return {path: shown(params.more_files[field]) for field, path in more.items()}


def _files(workspace: Workspace) -> RunFiles:
    return RunFiles(workspace.attachments, workspace.inputs)


def _sizes(lanes: Sequence[LaneFiles]) -> int:
    return sum(path.stat().st_size for lane in lanes for path in lane.names)


def _names(lanes: Sequence[LaneFiles]) -> dict[Path, str]:
    """The caller's names by file."""
    return {path: name for lane in lanes for path, name in lane.names.items()}
