"""The page that starts runs: a form for each bundled pipeline, and one for the user's own workflow.

The fields of the bundled pipelines come from the models of their parameters.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from decimal import Context, Decimal

from wesemu.dashboard.pages import WebPage, text_of
from wesemu.errors import BucketNotFound, InvalidRequest
from wesemu.runs.model import JsonObject, JsonValue, RunRequest
from wesemu.runs.ports import DryRunResult
from wesemu.runs.run_figures import estimated
from wesemu.runs.sla import ServiceLevel
from wesemu.storage.bucket_admin import ObjectServices
from wesemu.storage.buckets import is_reads
from wesemu.util.text import whole_number
from wesemu.workflows.params import PARAMS

_MOST_FILES = 500
_PER_BUCKET = 1000

_EXAMPLES = {
    "reference": "a registered name, or oss://bucket/folder",
    "bam": "oss://bucket/out/sample.bam",
    "vcf": "oss://bucket/out/sample.vcf.gz",
    "gvcf": "oss://bucket/out/sample.g.vcf.gz",
}

_MAIN = ("reference", "sample", "service", "bam", "vcf")
"""Parameters that are always visible; the others are in a collapsed part of the form."""


def page(
    pipeline: str,
    files: JsonObject,
    *,
    values: Mapping[str, str] | None = None,
    message: str | None = None,
    planned: DryRunResult | None = None,
) -> WebPage:
    """Return the page with the form of `pipeline`, or of the user's own workflow for "".

    `files` is the result of `known_files`. `values` fill the form again after an error
    (`message`) or a dry run (`planned`). Raises InvalidRequest for an unknown pipeline.
    """
    given = dict(values or {})
    content: JsonObject = {
        "pipelines": list(PARAMS),
        "pipeline": pipeline,
        "fields": [_field(*item, given) for item in _properties(pipeline).items()],
        "values": {**given},
        "message": message,
        "planned": None if planned is None else _planned(planned),
        **files,
    }
    return WebPage("new.html", "New run", content)


def known_files(objects: ObjectServices, references: Callable[[], list[str]]) -> JsonObject:
    """Return suggestions for the fields: reads in buckets, and the names of references. Blocks."""
    reads: list[JsonValue] = []
    for bucket in objects.buckets.names():
        try:
            listing, _ = objects.store.page(bucket, limit=_PER_BUCKET)
        except BucketNotFound:  # removed meanwhile
            continue
        reads += [f"oss://{bucket}/{key}" for key in listing.keys if is_reads(key)]
        if len(reads) >= _MOST_FILES:
            break
    return {"reads": reads[:_MOST_FILES], "references": [*references()]}


def chosen(files: Sequence[str]) -> dict[str, str]:
    """Return the fields of one or two chosen FASTQ files. Raises InvalidRequest for more."""
    if len(files) > 2:
        raise InvalidRequest("choose the two files of a pair, or one file", field="file")
    return dict(zip(("first", "second"), sorted(files), strict=False))


def request_of(pipeline: str, values: Mapping[str, str]) -> RunRequest:
    """Return the request of a filled form. Empty fields are left out. Raises InvalidRequest."""
    properties = _properties(pipeline)
    lane: JsonObject = {"first": values.get("first", "").strip()}
    if second := values.get("second", "").strip():
        lane["second"] = second
    else:
        lane["interleaved"] = True
    params: JsonObject = {"reads": [lane]}
    for name, schema in properties.items():
        text = values.get(name, "").strip()
        if text:
            params[name] = _value(name, text, schema)
    return RunRequest(workflow_url=pipeline, workflow_type="SMK", params=params)


def _properties(pipeline: str) -> dict[str, JsonObject]:
    """Return the JSON schema of each parameter but the reads. Raises InvalidRequest."""
    if not pipeline:
        return {}
    if pipeline not in PARAMS:
        raise InvalidRequest(f"there is no pipeline {pipeline[:40]!r}", field="pipeline")
    schema = PARAMS[pipeline].model_json_schema()
    properties: dict[str, JsonObject] = schema["properties"]
    shown = {name: value for name, value in properties.items() if name not in ("reads", "reports")}
    first = {name: shown.pop(name) for name in _MAIN if name in shown}
    return first | shown


def _field(name: str, schema: JsonObject, given: Mapping[str, str]) -> JsonValue:
    """Return one field: its choices, or none for free text, and its default as a placeholder."""
    default = schema.get("default")
    if name == "service":
        default = ServiceLevel(str(default)).name.lower()
    return {
        "name": name,
        "label": name.replace("_", " "),
        "choices": [*_choices(name, schema)],
        "placeholder": _EXAMPLES.get(name) or ("" if default is None else text_of(default)),
        "value": given.get(name, ""),
        "main": name in _MAIN,
    }


def _choices(name: str, schema: JsonObject) -> list[str]:
    if name == "service":
        return [level.name.lower() for level in ServiceLevel if level.has_promise]
    if schema.get("type") == "boolean":
        return ["true", "false"]
    alternatives = schema.get("anyOf", [schema])
    assert isinstance(alternatives, list)
    for each in alternatives:
        if isinstance(each, dict) and isinstance(listed := each.get("enum"), list):
            return [text_of(value) for value in listed]
    return []


def _value(name: str, text: str, schema: JsonObject) -> JsonValue:
    """Return a number or a boolean where the schema wants one, else the text."""
    kinds = json.dumps(schema)
    if schema.get("type") == "boolean":
        return text == "true"
    if '"integer"' in kinds and (number := whole_number(text.removeprefix("-"))) is not None:
        return -number if text.startswith("-") else number
    return text


def _price(price: Decimal, *, exact: bool) -> str:
    """Return CNY; an estimate has three significant digits."""
    if not exact:
        price = Context(prec=3).plus(price)
    return f"{price.normalize():f}"


def _planned(result: DryRunResult) -> JsonObject:
    plan = result.plan
    graph = result.graph
    sla = estimated(plan.workflow, plan.service_level, result.terms, plan.input_bytes)
    return {
        "seconds": None if sla is None else sla.duration.total_seconds(),
        "price": None if sla is None else _price(sla.price, exact=result.terms.bases is not None),
        "pretends": result.terms.bases is not None,
        "node": plan.placement.kind if plan.placement else None,
        "node_gpus": len(result.gpus.lent),
        "workflow": plan.workflow or plan.engine,
        "level": plan.service_level.name.lower() if plan.workflow else None,
        "cores": plan.resources.cores,
        "gpus": plan.resources.gpus,
        "free_gpus": len(result.gpus.free),
        "waits": bool(plan.resources.gpus) and result.waits,
        "input_bytes": plan.input_bytes,
        "outputs": [
            publication.url or publication.name
            for publication in plan.publications or ()
            if not publication.optional
        ],
        "counts": None if graph is None else dict(graph.counts),
        "total": None if graph is None else graph.total,
    }
