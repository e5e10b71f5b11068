"""The bundled pipelines: parameters checked, inputs found, outputs named."""

import asyncio
import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from wesemu.errors import EngineFault, InvalidRequest, ToolMissing
from wesemu.genomics.reports import check_reports
from wesemu.genomics.tools import OPTIONAL, command_name, how_to_get
from wesemu.objects.buckets import Buckets
from wesemu.runs.model import (
    JsonObject,
    JsonValue,
    OutputFile,
    ReadCounts,
    Resources,
    Run,
    RunFailure,
    RunRequest,
)
from wesemu.runs.ports import Delivery, Job, Plan, Publication, Results, Tell
from wesemu.runs.workspace import Workspace, read_regular
from wesemu.transfers.source import shown
from wesemu.workflows.accelerated import (
    OwnTools,
    add_own_tools,
    check_caller,
    check_mapper,
    without_parabricks,
)
from wesemu.workflows.accelerators import hindrance
from wesemu.workflows.delivery import Deliveries
from wesemu.workflows.elsewhere import Elsewhere, RemoteKey
from wesemu.workflows.indexing import ReferenceIndexer
from wesemu.workflows.inputs import Inputs, LaneFiles, RunFiles
from wesemu.workflows.params import PARAMS, MappingParams, WgsParams
from wesemu.workflows.placement import Offer, acceleration, place, settled, write_note
from wesemu.workflows.shares import others
from wesemu.workflows.staging import Stage

_VCF_GZ = "results/calls.vcf.gz"
_VCF = "results/calls.vcf"
_SCHEME = re.compile("^s3://")
_GVCF = "results/calls.g.vcf.gz"
_REPORTS = {"multiqc": "results/multiqc.html", "snakemake": "results/report.html"}


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
        self._buckets = buckets
        self._indexer = indexer
        self._elsewhere = elsewhere or Elsewhere()
        self._stage = stage or Stage(self._elsewhere, None)
        self._deliveries = deliveries or Deliveries(self._elsewhere)
        self._offer = offer
        self._unable = unable
        self._tools = tools or OwnTools()

    async def plan(self, engine: str, request: RunRequest, attachments: Path | None) -> Plan:
        """Raises InvalidRequest, BucketNotFound, ObjectNotFound, ReferenceNotFound."""
        params = parse_params(request)
        return await asyncio.to_thread(self._plan, engine, request, params, attachments)

    def _plan(
        self, engine: str, request: RunRequest, params: MappingParams, attachments: Path | None
    ) -> Plan:
        check_mapper(params, self._tools)
        files = RunFiles(attachments)
        found = self._inputs.lanes(params, files)
        reference = self._inputs.reference(params.reference, files)
        publications = self._publications(params)
        reads = [path for lane in found for path in lane.names]
        _check_names(params, {reference, *reads}, publications)
        unable = self._hindrance(params, request.workflow_url)
        placement = place(
            request.engine_parameters, self._offer, able=unable is None, unable=unable
        )
        _check_tools(params, cuda=placement.kind == "cuda" and unable is None)
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
        reference = await self._indexer.ready(fasta, shown(params.reference), params.mapper)
        input_bytes = await asyncio.to_thread(_sizes, lanes)
        await asyncio.to_thread(write_note, run, workspace)
        config = await self._configure(params, lanes, reference, run.tags, run.workflow, resources)
        return self._job(run.request, workspace, resources, config, input_bytes)

    async def sketch(
        self, plan: Plan, request: RunRequest, workspace: Workspace
    ) -> tuple[Job, dict[str, str]] | None:
        """The job of a dry run, whose reference is as it lies there, and the caller's names for
        the files. None where an input lies elsewhere: a dry run fetches nothing."""
        params = parse_params(request)
        if self._inputs.has_remote(params) or self._elsewhere.is_remote(params.reference):
            return None
        files = _files(workspace)
        lanes = await asyncio.to_thread(self._inputs.lanes, params, files)
        fasta = await asyncio.to_thread(self._inputs.reference, params.reference, files)
        assert fasta is not None, "nothing is remote"
        names = {str(path): name for lane in lanes for path, name in lane.names.items()}
        workflow = request.workflow_url
        config = await self._configure(params, lanes, fasta, plan.tags, workflow, plan.resources)
        job = self._job(request, workspace, plan.resources, config, plan.input_bytes)
        return job, names | {str(fasta): params.reference}

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
            engine_parameters=others(request.engine_parameters),
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

    async def _configure(
        self,
        params: MappingParams,
        lanes: Sequence[LaneFiles],
        reference: Path,
        tags: Mapping[str, str],
        workflow: str,
        resources: Resources,
    ) -> JsonObject:
        """The pipeline's configuration; `tags` say where the run is carried out."""
        config = _config(params, lanes, reference)
        if await asyncio.to_thread(self._hindrance, params, workflow) is None:
            config |= acceleration(tags, resources, self._offer)
        return add_own_tools(config, params, self._tools)

    async def results(self, workspace: Workspace) -> Results:
        """Exact counts of the reads. Raises EngineFault where the pipeline left none."""
        return await asyncio.to_thread(_results, workspace)

    async def explain(self, run: Run, workspace: Workspace) -> RunFailure | None:
        """What the pipeline says of a bad input, in the caller's own names for the files."""
        return await asyncio.to_thread(self._explain, run, workspace)

    def _explain(self, run: Run, workspace: Workspace) -> RunFailure | None:
        path = workspace.work / "input_error.json"
        if not path.is_file():
            return _gpu_failure(workspace.work / "accelerator_error.json")
        told = json.loads(read_regular(path))
        names: dict[str, str] = {}
        for lane in self._inputs.lanes(parse_params(run.request), _files(workspace)):
            names |= {str(path): name for path, name in lane.names.items()}
        message, file = str(told["message"]), told.get("file")
        for local, name in names.items():
            message = message.replace(local, name)
        return RunFailure(
            message=message,
            hint="mend or replace the file and send the request again; nothing was published",
            file=names.get(file, file),
            record=told.get("record"),
        )

    def _publications(self, params: MappingParams) -> tuple[Publication, ...]:
        wanted: list[Publication] = []
        if isinstance(params, WgsParams):
            wanted += self._variants(params)
        if params.bam or not isinstance(params, WgsParams):
            wanted += self._alignment(params)
        return (
            *wanted,
            Publication("summary", "results/summary.json", optional=True),
            Publication("flagstat", "results/flagstat.json"),
            Publication("stats", "results/stats.txt"),
            Publication("reads", "results/reads.json"),
            Publication("markdup", "results/markdup.json", optional=True),
            *(Publication(f"{name}_report", _REPORTS[name]) for name in _reports(params)),
        )

    def _alignment(self, params: MappingParams) -> list[Publication]:
        result = f"results/{_alignment_name(params)}"
        index = f"{result}.crai" if result.endswith(".cram") else f"{result}.bai"
        return self._with_index("bam", params.bam, (".bam", ".cram"), result, index)

    def _variants(self, params: WgsParams) -> list[Publication]:
        wanted = [Publication("variants", "results/variants.txt")]
        if params.gvcf is not None:
            wanted += self._with_index("gvcf", params.gvcf, (".vcf.gz",), _GVCF, f"{_GVCF}.tbi")
        either = (".vcf.gz", ".vcf")
        if _is_plain(params):
            return [*self._with_index("vcf", params.vcf, either, _VCF, None), *wanted]
        index = f"{_VCF_GZ}.tbi"
        return [*self._with_index("vcf", params.vcf, either, _VCF_GZ, index), *wanted]

    def _with_index(
        self, name: str, url: str | None, suffixes: tuple[str, ...], result: str, index: str | None
    ) -> list[Publication]:
        if url is not None and not url.lower().endswith(suffixes):
            raise InvalidRequest(
                f"{name}: {url[:80]!r} must end with {' or '.join(suffixes)}", field=name
            )
        wanted = [self._publication(name, result, url)]
        if index is not None:
            suffix = Path(index).suffix
            wanted.append(
                self._publication(f"{name}_index", index, None if url is None else url + suffix)
            )
        return wanted

    def _publication(self, name: str, result: str, url: str | None) -> Publication:
        if url is None:
            return Publication(name, result)
        field = name.removesuffix("_index")
        if self._elsewhere.is_remote(url):
            return Publication(name, result, None, self._remote_target(url, field))
        return Publication(name, result, self._buckets.target(url, field=field), url)

    def _remote_target(self, url: str, field: str) -> str:
        """The location of a result in a remote bucket, as it is told."""
        remote = self._elsewhere.remote(url, field=field)
        if not isinstance(remote, RemoteKey) or remote.sha256 is not None:
            raise InvalidRequest(
                f"{shown(url)}: results go to buckets; write oss://<bucket>/<key>", field=field
            )
        if url.endswith("/"):
            raise InvalidRequest(f"{url} is a folder; name the file to write", field=field)
        return remote.bucket.shown(remote.key)


def parse_params(request: RunRequest) -> MappingParams:
    """The parameters of a bundled pipeline. Raises InvalidRequest naming the first bad one."""
    try:
        return PARAMS[request.workflow_url].model_validate(request.params)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "workflow_params"
        raise InvalidRequest(
            f"{field}: {first['msg']} (workflow {request.workflow_url!r})", field=field
        ) from error


def _check_names(
    params: MappingParams, inputs: set[Path | None], publications: Sequence[Publication]
) -> None:
    """Raises InvalidRequest for an output that is an input or another output."""
    locations = [params.reference]
    for lane in params.reads:
        locations += [lane.first] if lane.second is None else [lane.first, lane.second]
    taken: set[Path | str | None] = {*inputs}
    taken |= {_SCHEME.sub("oss://", location) for location in locations}
    for publication in publications:
        target = publication.destination or publication.url
        if target is None:
            continue
        if target in taken:
            raise InvalidRequest(
                f"{publication.url} is an input of this run or named for two outputs; "
                "choose another name",
                field=publication.name,
            )
        taken.add(target)


def _files(workspace: Workspace) -> RunFiles:
    return RunFiles(workspace.attachments, workspace.inputs)


def _sizes(lanes: Sequence[LaneFiles]) -> int:
    return sum(path.stat().st_size for lane in lanes for path in lane.names)


def _check_tools(params: MappingParams, *, cuda: bool) -> None:
    """Raises InvalidRequest for a mapper, caller or report whose program is not installed, and
    for a caller of a GPU without one; with a GPU deepvariant is Parabricks'."""
    chosen = {"mapper": params.mapper}
    if isinstance(params, WgsParams):
        if not cuda:
            check_caller(params)
        if not (cuda and params.caller == "deepvariant"):
            chosen["caller"] = params.caller
    for field, tool in chosen.items():
        if tool in OPTIONAL and shutil.which(command_name(tool)) is None:
            raise InvalidRequest(
                f"{tool} is not installed on this server; install {how_to_get(tool)} there, or "
                f"leave {field} out",
                field=field,
            )

    try:
        check_reports(_reports(params))
    except ToolMissing as error:
        raise InvalidRequest(error.message, field="reports") from error


def _reports(params: MappingParams) -> list[str]:
    return list(dict.fromkeys(params.reports))


def _is_plain(params: WgsParams) -> bool:
    return params.vcf is not None and not params.vcf.lower().endswith(".gz")


def _alignment_name(params: MappingParams) -> str:
    wanted = (params.bam or "").lower()
    return "aligned.cram" if wanted.endswith(".cram") else "aligned.bam"


def _config(params: MappingParams, lanes: Sequence[LaneFiles], reference: Path) -> JsonObject:
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
        "quality_offset": params.quality_offset,
        "mapper": params.mapper,
        "markdup": params.markdup,
        "optical_distance": params.optical_distance,
        "alignment": _alignment_name(params),
        "reports": [*_reports(params)],
    }
    if isinstance(params, WgsParams):
        config["caller"] = params.caller
        config["gvcf"] = params.gvcf is not None
        config["vcf"] = "calls.vcf" if _is_plain(params) else "calls.vcf.gz"
    return config


def _gpu_failure(path: Path) -> RunFailure | None:
    """What a step on the GPU says of its failure, and what helps."""
    if not path.is_file():
        return None
    told = json.loads(read_regular(path))
    return RunFailure(message=str(told["message"]), hint=told.get("hint"))


def _results(workspace: Workspace) -> Results:
    results = workspace.work / "results"
    try:
        counted: dict[str, Any] = json.loads(read_regular(results / "reads.json"))
        counts = ReadCounts(int(counted["total_reads"]), int(counted["total_bases"]))
        return Results(counts=counts, tags=_tags(results / "summary.json"))
    except (OSError, ValueError, KeyError) as error:
        raise EngineFault(f"the pipeline left no usable read counts: {error}") from error


def _tags(path: Path) -> dict[str, str]:
    """Warnings and tool versions, as tags of the run."""
    if not path.is_file():
        return {}
    summary: dict[str, Any] = json.loads(read_regular(path))
    tags = {f"wesemu.tools.{name}": str(version) for name, version in summary["tools"].items()}
    if summary["warnings"]:
        tags["wesemu.warnings"] = " ".join(summary["warnings"])
    return tags
