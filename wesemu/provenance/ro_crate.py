"""A run as a Workflow Run RO-Crate 0.5 (https://w3id.org/ro/wfrun/workflow/0.5). Needs ro-crate-py.

The crate conforms to RO-Crate 1.1 and to the profiles Process Run Crate, Workflow Run Crate and
Workflow RO-Crate: the workflow as its main entity with its formal parameters, and one CreateAction,
the run, with its agent, its inputs, its results and its times.
"""

import asyncio
import io
import json
import re
from collections.abc import AsyncGenerator, Iterator
from contextlib import suppress
from datetime import datetime
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, unquote

from rocrate.model.computationalworkflow import ComputationalWorkflow
from rocrate.model.computerlanguage import ComputerLanguage
from rocrate.model.contextentity import ContextEntity
from rocrate.model.file import File
from rocrate.rocrate import ROCrate

from wesemu import __version__
from wesemu.provenance.collect import (
    CrateFacts,
    Inclusion,
    InputFile,
    PartFile,
    ResultFile,
    gather,
    redacted_content,
)
from wesemu.provenance.redaction import STRUCK
from wesemu.runs.model import JsonValue, Run, RunState
from wesemu.runs.run_directory import Workspace
from wesemu.storage.buckets import Buckets

# The files of a crate, as they are sent. Needs ro-crate-py.


class RedactedFile(io.BytesIO):
    """A file without its credentials, in memory while it is sent only."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path: Path | None = path

    def read(self, size: int | None = -1, /) -> bytes:
        path, self._path = self._path, None
        return b"" if path is None else redacted_content(path) or b""


class _ByItsName:
    """ro-crate-py sends empty files, and files from memory, under their quoted names."""

    id: str

    def stream(self, *arguments: Any, **options: Any) -> Iterator[tuple[str, bytes]]:
        file: Any = super()
        for _, chunk in file.stream(*arguments, **options):
            yield unquote(self.id), chunk


class CrateFile(_ByItsName, File):  # type: ignore[misc]
    pass


class CrateWorkflow(_ByItsName, ComputationalWorkflow):  # type: ignore[misc]
    pass


# A crate as a stream of bytes: a ZIP that is made while it is sent, never whole anywhere.


_CHUNK = 256 << 10


class CrateBuilder:
    """Makes crates in threads. Reads `buckets` for the inputs, `pipelines` for the bundled ones."""

    def __init__(self, buckets: Buckets, pipelines: Path) -> None:
        self._buckets = buckets
        self._pipelines = pipelines

    async def chunks(
        self, run: Run, workspace: Workspace, *, url: str, log: str, inclusion: Inclusion
    ) -> AsyncGenerator[bytes]:
        """Of a run that has ended. Raises OSError."""

        def make() -> Iterator[bytes]:
            facts = gather(
                run,
                workspace,
                url=url,
                log=log,
                inclusion=inclusion,
                buckets=self._buckets,
                pipelines=self._pipelines,
            )
            crate = import_module("wesemu.provenance.ro_crate").build(facts)
            stream: Iterator[bytes] = crate.stream_zip(chunk_size=_CHUNK)
            return stream

        stream = await asyncio.to_thread(make)
        try:
            while chunk := await asyncio.to_thread(next, stream, b""):
                yield chunk
        finally:
            with suppress(ValueError):  # broken off: the archive complains that it is not whole
                await asyncio.to_thread(getattr(stream, "close", bool))


# How files and programs are called in a crate.


_BEHIND_THE_PATH = re.compile(r"(?<=://)([^?#]*)[?#].*", re.DOTALL)

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
    """The media type of a file by its name or URL; None where that does not tell."""
    path = PurePosixPath(_BEHIND_THE_PATH.sub(r"\1", name))
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
- `outputs/`: results, as far as they lie in the crate
- `run.json`: the run's log with its tasks

Credentials that were found in parameters, URLs and commands are {STRUCK}.
"""
_WEB = ("http://", "https://")
_TOOLS = "wesemu.tools."
_KNOWN_LANGUAGES = {"SMK": "snakemake", "CWL": "cwl"}


def build(facts: CrateFacts) -> Any:
    """A rocrate.ROCrate whose files are read when it is written."""
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
        description="Whoever sent the run has not stated a license.",
    )
    if run.ended is not None:
        crate.root_dataset["datePublished"] = _stamp(run.ended)
    _add_profiles(crate)
    workflow = _add_workflow(crate, facts)
    formal, objects = _add_inputs(crate, facts)
    objects += [_add_part(crate, part) for part in facts.parts[1:]]
    results = [_add_result(crate, result, run.ended) for result in facts.results]
    workflow["input"] = _unpacked(formal)
    workflow["output"] = _unpacked([result["exampleOfWork"] for result in results])
    agent = _entity(crate, f"#owner-{quote(run.owner, safe='')}", "Person", name=str(run.owner))
    crate.root_dataset["author"] = agent
    action = _add_action(crate, facts, workflow, agent)
    action["object"], action["result"] = _unpacked(objects), _unpacked(results)
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
        properties=_part_properties(main),
    )
    workflow["name"] = run.workflow or run.request.workflow_url
    workflow["conformsTo"] = {"@id": _WORKFLOW}
    if run.workflow:
        workflow["version"] = __version__
    tools = {
        tag.removeprefix(_TOOLS): told for tag, told in run.tags.items() if tag.startswith(_TOOLS)
    }
    if facts.engine is not None:
        tools = {facts.engine[0]: facts.engine[1], **tools}
        workflow["runtimePlatform"] = f"{facts.engine[0]} {version}"
    workflow["softwareRequirements"] = _unpacked(
        [_software(crate, name, told) for name, told in tools.items()]
    )
    return workflow


def _software(crate: Any, name: str, version: str) -> Any:
    told = {"name": name, "softwareVersion": version}
    if (page := homepage(name)) is not None:
        return _entity(crate, page, "SoftwareApplication", url=page, **told)
    return _entity(crate, f"#software-{quote(name, safe='')}", "SoftwareApplication", **told)


def _add_inputs(crate: Any, facts: CrateFacts) -> tuple[list[Any], list[Any]]:
    """The formal parameters, and what they were given. A parameter that is a file is no value."""
    files = {file.parameter for file in facts.inputs}
    formal: list[Any] = []
    given: list[Any] = []
    for name, value in facts.run.request.params.items():
        if value is not None and name not in files:
            formal.append(_formal(crate, "input", name, _kind(value)))
            given.append(_add_value(crate, name, value, formal[-1]))
    for file in facts.inputs:
        formal.append(_formal(crate, "input", file.parameter, "File"))
        given.append(_add_input(crate, file, formal[-1]))
        if facts.run.started is not None and file.url.startswith(_WEB):
            given[-1]["sdDatePublished"] = _stamp(facts.run.started)
    return formal, given


def _formal(crate: Any, way: str, name: str, kind: str) -> Any:
    """Bioschemas' FormalParameter, as the profile asks for it."""
    return _entity(
        crate,
        f"#{way}-{quote(name, safe='')}",
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
    told = json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value
    return _entity(
        crate,
        f"#value-{quote(name, safe='')}",
        "PropertyValue",
        name=name,
        value=told,
        exampleOfWork=formal,
    )


def _add_input(crate: Any, file: InputFile, formal: Any) -> Any:
    told: dict[str, Any] = {"name": file.url, "exampleOfWork": formal} | _encoded(file.url)
    if file.size is not None:
        told["contentSize"] = str(file.size)
    if file.sha256 is not None:
        told["sha256"] = file.sha256
    return crate.add(File(crate, quote(file.url, safe=":/?&=%+@,;~"), properties=told))


def _add_part(crate: Any, part: PartFile) -> Any:
    properties = _part_properties(part)
    if part.path is not None:
        return crate.add(CrateFile(crate, _source(part), part.name, properties=properties))
    return _entity(crate, f"#{quote(part.name)}", "CreativeWork", **properties)


def _source(part: PartFile) -> Path | io.BytesIO | None:
    return RedactedFile(part.path) if part.struck and part.path is not None else part.path


def _part_properties(part: PartFile) -> dict[str, Any]:
    told: dict[str, Any] = {"name": part.name, "contentSize": str(part.size)} | _encoded(part.name)
    if part.url is not None:
        told["url"] = part.url
    if part.struck:
        told["description"] = f"As it was sent, but for credentials in URLs: these are {STRUCK}."
    return told


def _encoded(name: str) -> dict[str, str]:
    told = encoding(name)
    return {} if told is None else {"encodingFormat": told}


def _add_result(crate: Any, result: ResultFile, ended: datetime | None) -> Any:
    output = result.output
    place = f"{result.url}/outputs/{quote(output.path)}"
    told: dict[str, Any] = {
        "name": output.name,
        "contentSize": str(output.size),
        "exampleOfWork": _formal(crate, "output", output.name, "File"),
        "encodingFormat": encoding(output.path) or "application/octet-stream",
    }
    if output.sha256 is not None:
        told["sha256"] = output.sha256
    if output.published is not None:
        told["alternateName"] = output.published
    if result.withheld:
        told["description"] = "Not in the crate, since it names credentials."
    if result.path is None:
        if ended is not None:
            told["sdDatePublished"] = _stamp(ended)
        return crate.add(File(crate, place, properties=told))
    return crate.add(CrateFile(crate, result.path, f"outputs/{output.path}", properties=told))


def _add_action(crate: Any, facts: CrateFacts, workflow: Any, agent: Any) -> Any:
    run = facts.run
    complete = run.state is RunState.COMPLETE
    status = "Completed" if complete else "Failed"
    told: dict[str, Any] = {
        "name": f"Run {run.handle}",
        "description": f"{workflow['name']}, sent by {run.owner}, ended as {run.state}",
        "identifier": run.id,
        "url": facts.url,
        "instrument": workflow,
        "agent": agent,
        "actionStatus": f"http://schema.org/{status}ActionStatus",
    }
    if run.started is not None:
        told["startTime"] = _stamp(run.started)
    if run.ended is not None:
        told["endTime"] = _stamp(run.ended)
    if not complete:
        told["error"] = run.failure.message if run.failure else f"the run ended as {run.state}"
    return _entity(crate, f"#run-{run.id}", "CreateAction", **told)


def _add_log(crate: Any, facts: CrateFacts, action: Any) -> None:
    """Tasks, commands, exit codes and times, as WES tells them."""
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
    told = {"name": "README", "encodingFormat": "text/markdown", "about": crate.root_dataset}
    crate.add(File(crate, io.StringIO(text), "README.md", properties=told))


def _stamp(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")


def _unpacked(values: list[Any]) -> Any:
    """Of one value, as RO-Crate wants it, the value itself."""
    return values[0] if len(values) == 1 else values


def _entity(crate: Any, entity_id: str, kind: str, /, **properties: Any) -> Any:
    told = {"@type": kind, **properties}
    return crate.add(ContextEntity(crate, entity_id, properties=told))
