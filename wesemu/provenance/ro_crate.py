"""A run as a Workflow Run RO-Crate 0.5 (https://w3id.org/ro/wfrun/workflow/0.5).

The crate conforms to RO-Crate 1.1 and the profiles Process Run Crate, Workflow Run Crate and
Workflow RO-Crate. Its main entity is the workflow with formal parameters; one CreateAction, the
run, has agent, inputs, results and times. Needs ro-crate-py.

The parts of this module are the files in the crate, media types, and `build`.
"""

import io
import json
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, unquote

from rocrate.model.computationalworkflow import ComputationalWorkflow
from rocrate.model.computerlanguage import ComputerLanguage
from rocrate.model.contextentity import ContextEntity
from rocrate.model.file import File
from rocrate.rocrate import ROCrate

from wesemu import __version__
from wesemu.provenance.collect import CrateFacts, InputFile, PartFile, ResultFile, redacted_content
from wesemu.provenance.redaction import REDACTED
from wesemu.runs.model import JsonValue, RunState

# Files in the crate.


class RedactedFile(io.BytesIO):
    """A file without its credentials; in memory only while it is sent."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path: Path | None = path

    def read(self, size: int | None = -1, /) -> bytes:
        path, self._path = self._path, None
        return b"" if path is None else redacted_content(path) or b""


class _UnquotedName:
    """Undoes the quoting of names in the ZIP.

    ro-crate-py quotes the names of empty files and of files from memory.
    """

    id: str

    def stream(self, *arguments: Any, **options: Any) -> Iterator[tuple[str, bytes]]:
        file: Any = super()
        for _, chunk in file.stream(*arguments, **options):
            yield unquote(self.id), chunk


class CrateFile(_UnquotedName, File):  # type: ignore[misc]
    pass


class CrateWorkflow(_UnquotedName, ComputationalWorkflow):  # type: ignore[misc]
    pass


# Media types and home pages.

_AFTER_PATH = re.compile(r"(?<=://)([^?#]*)[?#].*", re.DOTALL)

_ENCODINGS = {
    ".bcf": "application/octet-stream",
    ".cram": "application/octet-stream",
    ".csv": "text/csv",
    ".cwl": "text/plain",
    ".fa": "text/plain",
    ".fasta": "text/plain",
    ".fastq": "text/plain",
    ".fq": "text/plain",
    ".gz": "application/gzip",
    ".htm": "text/html",
    ".html": "text/html",
    ".json": "application/json",
    ".log": "text/plain",
    ".md": "text/markdown",
    ".pdf": "application/pdf",
    ".png": "image/png",
    ".py": "text/x-python",
    ".smk": "text/plain",
    ".svg": "image/svg+xml",
    ".tsv": "text/tab-separated-values",
    ".txt": "text/plain",
    ".vcf": "text/plain",
    ".wdl": "text/plain",
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
    ".zip": "application/zip",
}

_HOMEPAGES = {
    "bcftools": "https://samtools.github.io/bcftools/",
    "bwa": "https://github.com/lh3/bwa",
    "bwa-mem2": "https://github.com/bwa-mem2/bwa-mem2",
    "bwa-mem3": "https://github.com/fg-labs/bwa-mem3",
    "cwltool": "https://github.com/common-workflow-language/cwltool",
    "deepvariant": "https://github.com/google/deepvariant",
    "freebayes": "https://github.com/freebayes/freebayes",
    "gatk": "https://gatk.broadinstitute.org",
    "minimap2": "https://github.com/lh3/minimap2",
    "miniwdl": "https://github.com/chanzuckerberg/miniwdl",
    "samtools": "https://www.htslib.org",
    "snakemake": "https://snakemake.github.io",
}


def encoding(name: str) -> str | None:
    """Return the media type for a file name or URL, or None if unknown."""
    path = PurePosixPath(_AFTER_PATH.sub(r"\1", name))
    return "text/plain" if path.name == "Snakefile" else _ENCODINGS.get(path.suffix.lower())


def homepage(program: str) -> str | None:
    return _HOMEPAGES.get(program.lower())


PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": "Process Run Crate",
    "https://w3id.org/ro/wfrun/workflow/0.5": "Workflow Run Crate",
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0": "Workflow RO-Crate",
}
_TERMS = "https://w3id.org/ro/terms/workflow-run/context"
_PARAMETER = "https://bioschemas.org/profiles/FormalParameter/1.0-RELEASE"
_WORKFLOW = "https://bioschemas.org/profiles/ComputationalWorkflow/1.0-RELEASE"
_README = f"""\
- `ro-crate-metadata.json`: this crate, a Workflow Run RO-Crate (https://w3id.org/ro/wfrun/workflow)
- `pipelines/` or `workflow/`: the workflow
- `outputs/`: the results that are included in the crate
- `run.json`: the run's log with its tasks

Credentials in parameters, URLs and commands are replaced by {REDACTED}.
"""
_WEB = ("http://", "https://")
_KNOWN_LANGUAGES = {"SMK": "snakemake", "CWL": "cwl"}


def build(facts: CrateFacts) -> Any:
    """Return a rocrate.ROCrate; it reads its files when it is written."""
    crate = ROCrate(version="1.1")
    crate.metadata.extra_contexts.append(_TERMS)
    run = facts.run
    crate.name = f"Run {run.handle} of {run.workflow or run.request.workflow_url}"
    crate.description = (
        f"A workflow run that ended as {run.state} on wesemu {__version__}, a local emulator of "
        "GA4GH WES. Times are those of the emulated clock."
    )
    crate.license = _entity(
        crate,
        "#no-license",
        "CreativeWork",
        name="No license",
        description="The run was submitted without a license.",
    )
    if run.ended is not None:
        crate.root_dataset["datePublished"] = _timestamp(run.ended)
    _add_profiles(crate)
    workflow = _add_workflow(crate, facts)
    formal, objects = _add_inputs(crate, facts)
    objects += [_add_part(crate, part) for part in facts.parts[1:]]
    results = [_add_result(crate, result, run.ended) for result in facts.results]
    workflow["input"] = _single(formal)
    workflow["output"] = _single([result["exampleOfWork"] for result in results])
    agent = _entity(crate, f"#owner-{quote(run.owner, safe='')}", "Person", name=str(run.owner))
    crate.root_dataset["author"] = agent
    action = _add_action(crate, facts, workflow, agent)
    action["object"], action["result"] = _single(objects), _single(results)
    server = _software(crate, "wesemu", __version__)
    crate.root_dataset["mentions"] = [action, server]
    _add_log(crate, facts, action)
    _add_readme(crate)
    return crate


def _add_profiles(crate: Any) -> None:
    profiles = [
        _entity(crate, url, "CreativeWork", name=name, version=url.rpartition("/")[2])
        for url, name in PROFILES.items()
    ]
    crate.root_dataset["conformsTo"] = profiles


def _add_workflow(crate: Any, facts: CrateFacts) -> Any:
    main, run = facts.parts[0], facts.run
    version = facts.engine[1] if facts.engine else None
    language: Any = _KNOWN_LANGUAGES.get(facts.language)
    if language is None:
        language = crate.add(
            ComputerLanguage(crate, f"#{facts.language}", properties={"name": facts.language})
        )
    workflow = crate.add_workflow(
        _source(main),
        main.name,
        main=True,
        lang=language,
        cls=CrateWorkflow,
        properties=_properties_of_part(main),
    )
    workflow["name"] = run.workflow or run.request.workflow_url
    workflow["conformsTo"] = {"@id": _WORKFLOW}
    if run.workflow:
        workflow["version"] = __version__
    tools = dict(run.tools)
    if facts.engine is not None:
        tools = {facts.engine[0]: facts.engine[1], **tools}
        workflow["runtimePlatform"] = f"{facts.engine[0]} {version}"
    workflow["softwareRequirements"] = _single(
        [_software(crate, name, version) for name, version in tools.items()]
    )
    return workflow


def _software(crate: Any, name: str, version: str) -> Any:
    properties = {"name": name, "softwareVersion": version}
    if (page := homepage(name)) is not None:
        return _entity(crate, page, "SoftwareApplication", url=page, **properties)
    return _entity(crate, f"#software-{quote(name, safe='')}", "SoftwareApplication", **properties)


def _add_inputs(crate: Any, facts: CrateFacts) -> tuple[list[Any], list[Any]]:
    """Return the formal parameters and their values; a file parameter has a file, not a value."""
    files = {file.parameter for file in facts.inputs}
    formal: list[Any] = []
    given: list[Any] = []
    for name, value in facts.run.request.params.items():
        if value is not None and name not in files:
            formal.append(_formal_parameter(crate, "input", name, _kind(value)))
            given.append(_add_value(crate, name, value, formal[-1]))
    for file in facts.inputs:
        formal.append(_formal_parameter(crate, "input", file.parameter, "File"))
        given.append(_add_input(crate, file, formal[-1]))
        if facts.run.started is not None and file.url.startswith(_WEB):
            given[-1]["sdDatePublished"] = _timestamp(facts.run.started)
    return formal, given


def _formal_parameter(crate: Any, direction: str, name: str, kind: str) -> Any:
    """Return a FormalParameter (Bioschemas), as the profile requires."""
    return _entity(
        crate,
        f"#{direction}-{quote(name, safe='')}",
        "FormalParameter",
        name=name,
        additionalType=kind,
        conformsTo={"@id": _PARAMETER},
    )


def _kind(value: JsonValue) -> str:
    match value:
        case bool():
            return "Boolean"
        case int():
            return "Integer"
        case float():
            return "Float"
        case str():
            return "Text"
        case _:
            return "PropertyValue"


def _add_value(crate: Any, name: str, value: JsonValue, formal: Any) -> Any:
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value
    return _entity(
        crate,
        f"#value-{quote(name, safe='')}",
        "PropertyValue",
        name=name,
        value=text,
        exampleOfWork=formal,
    )


def _add_input(crate: Any, file: InputFile, formal: Any) -> Any:
    properties: dict[str, Any] = {"name": file.url, "exampleOfWork": formal} | _encoding_format(
        file.url
    )
    if file.size is not None:
        properties["contentSize"] = str(file.size)
    if file.sha256 is not None:
        properties["sha256"] = file.sha256
    return crate.add(File(crate, quote(file.url, safe=":/?&=%+@,;~"), properties=properties))


def _add_part(crate: Any, part: PartFile) -> Any:
    properties = _properties_of_part(part)
    if part.path is not None:
        return crate.add(CrateFile(crate, _source(part), part.name, properties=properties))
    return _entity(crate, f"#{quote(part.name)}", "CreativeWork", **properties)


def _source(part: PartFile) -> Path | io.BytesIO | None:
    return RedactedFile(part.path) if part.redacted and part.path is not None else part.path


def _properties_of_part(part: PartFile) -> dict[str, Any]:
    properties: dict[str, Any] = {
        "name": part.name,
        "contentSize": str(part.size),
    } | _encoding_format(part.name)
    if part.url is not None:
        properties["url"] = part.url
    if part.redacted:
        properties["description"] = (
            f"As submitted, except credentials in URLs, which are {REDACTED}."
        )
    return properties


def _encoding_format(name: str) -> dict[str, str]:
    media_type = encoding(name)
    return {} if media_type is None else {"encodingFormat": media_type}


def _add_result(crate: Any, result: ResultFile, ended: datetime | None) -> Any:
    output = result.output
    url = f"{result.url}/outputs/{quote(output.path)}"
    properties: dict[str, Any] = {
        "name": output.name,
        "contentSize": str(output.size),
        "exampleOfWork": _formal_parameter(crate, "output", output.name, "File"),
        "encodingFormat": encoding(output.path) or "application/octet-stream",
    }
    if output.sha256 is not None:
        properties["sha256"] = output.sha256
    if output.published is not None:
        properties["alternateName"] = output.published
    if result.withheld:
        properties["description"] = "Not in the crate, because it contains credentials."
    if result.path is None:
        if ended is not None:
            properties["sdDatePublished"] = _timestamp(ended)
        return crate.add(File(crate, url, properties=properties))
    return crate.add(CrateFile(crate, result.path, f"outputs/{output.path}", properties=properties))


def _add_action(crate: Any, facts: CrateFacts, workflow: Any, agent: Any) -> Any:
    run = facts.run
    complete = run.state is RunState.COMPLETE
    status = "Completed" if complete else "Failed"
    properties: dict[str, Any] = {
        "name": f"Run {run.handle}",
        "description": f"{workflow['name']}, sent by {run.owner}, ended as {run.state}",
        "identifier": run.id,
        "url": facts.url,
        "instrument": workflow,
        "agent": agent,
        "actionStatus": f"http://schema.org/{status}ActionStatus",
    }
    if run.started is not None:
        properties["startTime"] = _timestamp(run.started)
    if run.ended is not None:
        properties["endTime"] = _timestamp(run.ended)
    if not complete:
        properties["error"] = (
            run.failure.message if run.failure else f"the run ended as {run.state}"
        )
    return _entity(crate, f"#run-{run.id}", "CreateAction", **properties)


def _add_log(crate: Any, facts: CrateFacts, action: Any) -> None:
    """Add the WES RunLog: tasks, commands, exit codes and times."""
    crate.add(
        File(
            crate,
            io.StringIO(facts.log),
            "run.json",
            properties={
                "name": "The run's log: GA4GH WES RunLog",
                "encodingFormat": "application/json",
                "about": action,
            },
        )
    )


def _add_readme(crate: Any) -> None:
    text = f"# {crate.name}\n\n{crate.description}\n\n{_README}"
    properties = {"name": "README", "encodingFormat": "text/markdown", "about": crate.root_dataset}
    crate.add(File(crate, io.StringIO(text), "README.md", properties=properties))


def _timestamp(timestamp: datetime) -> str:
    return timestamp.isoformat(timespec="seconds")


def _single(values: list[Any]) -> Any:
    """Return the only value instead of a list of one, as RO-Crate recommends."""
    return values[0] if len(values) == 1 else values


def _entity(crate: Any, entity_id: str, kind: str, /, **properties: Any) -> Any:
    properties = {"@type": kind, **properties}
    return crate.add(ContextEntity(crate, entity_id, properties=properties))
