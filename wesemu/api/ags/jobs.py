"""Runs as AGS jobs: their names, their status, their descriptions."""

import json
import re
from datetime import datetime, timedelta
from typing import assert_never

from wesemu.api.ags.fields import KINDS
from wesemu.api.ags.formats import go_duration, go_time, rfc3339
from wesemu.api.ags.models import Description, Job
from wesemu.api.ags.start import arrange
from wesemu.errors import Forbidden, RunNotFound
from wesemu.runs.figures import figures
from wesemu.runs.model import PLACE, PLACE_NOTE, JsonObject, JsonValue, Owner, Run, RunState
from wesemu.runs.promises import predict, promised, took
from wesemu.runs.service import RunService

_NAME = re.compile(rf"({'|'.join(KINDS)})-gpu-([a-z0-9]+)")
_BUCKET_URL = re.compile(r"oss://([^/]+)/(.+)")


def job_name(run: Run) -> str:
    """As "mapping-gpu-66xv7": AGS's name says gpu wherever the job ran."""
    return f"{run.workflow}-gpu-{run.handle}"


async def find_run(runs: RunService, owner: Owner, name: str) -> Run:
    """The run that a job name means. Raises RunNotFound, also for other owners' jobs."""
    missing = RunNotFound(f"you have no workflow {name[:80]!r}; DescribeWorkflows lists yours")
    match = _NAME.fullmatch(name)
    if match is None:
        raise missing
    kind, handle = match.groups()
    try:
        run = await runs.by_handle(owner, handle)
    except (RunNotFound, Forbidden):
        raise missing from None
    if run.workflow != kind:
        raise missing
    return run


def status(state: RunState) -> str:
    """AGS's word for a state. A job that is being cancelled still runs; a cancelled one failed."""
    match state:
        case RunState.QUEUED:
            return "Pending"
        case RunState.INITIALIZING | RunState.RUNNING | RunState.CANCELING:
            return "Running"
        case RunState.COMPLETE:
            return "Succeeded"
        case RunState.EXECUTOR_ERROR | RunState.SYSTEM_ERROR | RunState.CANCELED:
            return "Failed"
        case _:
            assert_never(state)


def list_entry(run: Run, cluster_id: str) -> Job:
    return Job(
        cluster_id=cluster_id,
        job_name=job_name(run),
        create_time=rfc3339(run.created),
        status=status(run.state),
    )


def describe(run: Run, *, now: datetime, namespace: str) -> Description:
    """A run as DescirbeWorkflow tells it at `now`. Sizes are bytes; what is not known is "0"."""
    length = took(run, now)
    figure, sla, predicted = figures(run), promised(run), predict(run)
    return Description(
        create_time=go_time(run.created),
        duration=go_duration(_whole(length) if run.ended else length),
        finish_time=go_time(run.ended),
        input_data_size=str(run.input_bytes or 0),
        job_name=job_name(run),
        job_namespace=namespace,
        output_data_size=str(sum(output.size for output in run.outputs if output.published)),
        status=status(run.state),
        total_bases=str(run.counts.total_bases if run.counts else 0),
        total_reads=str(run.counts.total_reads if run.counts else 0),
        user_input_data=json.dumps(
            run.request.echo or echo_of(run), ensure_ascii=False, separators=(",", ":")
        ),
        pace=figure.get("wesemu.pace"),
        sla_bases=figure.get("wesemu.sla.bases"),
        sla_minutes=figure.get("wesemu.sla.minutes"),
        sla_price_cny=figure.get("wesemu.sla.price_cny"),
        sla_deadline=_go_time(sla.deadline(run.started) if sla and run.started else None),
        sla_predicted_finish=_go_time(predicted.finish if predicted else None),
        sla_met=figure.get("wesemu.sla.met"),
        sla_charged_cny=figure.get("wesemu.sla.charged_cny"),
        real_seconds=figure.get("wesemu.real.seconds"),
        node=run.tags.get(PLACE),
        node_note=run.tags.get(PLACE_NOTE),
        error_message=_error(run) or figure.get("wesemu.error"),
    )


def _error(run: Run) -> str | None:
    """AGS has one word for jobs that failed and for those that somebody cancelled."""
    return "the workflow was cancelled" if run.state is RunState.CANCELED else None


def echo_of(run: Run) -> JsonObject:
    """What AGS would echo of a run that came in by another API: its parameters in dialect 2.

    Keys are shortened to the first reads' bucket; what lies elsewhere keeps its `oss://` URL.
    Of several lanes the first is told.
    """
    params = run.request.params
    reads = params.get("reads")
    lane = reads[0] if isinstance(reads, list) and reads else {}
    lane = lane if isinstance(lane, dict) else {}
    values: dict[str, JsonValue] = {
        "fastq_first_name": lane.get("first"),
        "fastq_second_name": lane.get("second"),
        "vcf_file_name": params.get("vcf"),
        "gvcf_file_name": params.get("gvcf"),
        "bam_file_name": params.get("bam"),
        "reference_file": params.get("reference"),
        "reference_group": lane.get("read_group"),
        "service": params.get("service"),
    }
    if "markdup" in params:
        values["mark_dup"] = "true" if params["markdup"] else "false"
    home = _BUCKET_URL.fullmatch(str(lane.get("first")))
    texts = {name: _within(str(value), home) for name, value in values.items() if value is not None}
    if home is not None:
        texts["bucket_name"] = home[1]
    return arrange(run.workflow, texts)


def _within(text: str, home: re.Match[str] | None) -> str:
    return text.removeprefix(f"oss://{home[1]}/") if home is not None else text


def _go_time(moment: datetime | None) -> str | None:
    return None if moment is None else go_time(moment)


def _whole(length: timedelta) -> timedelta:
    return timedelta(seconds=length // timedelta(seconds=1))
