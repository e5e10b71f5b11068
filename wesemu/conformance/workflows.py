"""The workflows that the checks send: two tiny tasks that copy a file, in four languages.

The first task sleeps for the parameter `seconds`, so that there is a run to cancel.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from wesemu.conformance.probe import Answer
from wesemu.runs.model import JsonObject, JsonValue

GREETING = b"hello\n"
"""The content of the input file."""

_SNAKEFILE = """\
rule all:
    input: "copied.txt"

rule write:
    input: config["greeting"]
    output: "written.txt"
    params: seconds=config["seconds"]
    shell: "sleep {params.seconds}; cat {input} > {output}"

rule copy:
    input: "written.txt"
    output: "copied.txt"
    shell: "cat {input} > {output}"
"""

_CWL = """\
cwlVersion: VERSION
class: Workflow
inputs:
  greeting: File
  seconds: int
outputs:
  copied:
    type: File
    outputSource: copy/copied
steps:
  write:
    run:
      class: CommandLineTool
      baseCommand: [sh, -c, 'sleep "$0"; cat "$1"']
      inputs:
        seconds: {type: int, inputBinding: {position: 1}}
        greeting: {type: File, inputBinding: {position: 2}}
      stdout: written.txt
      outputs:
        written: stdout
    in: {greeting: greeting, seconds: seconds}
    out: [written]
  copy:
    run:
      class: CommandLineTool
      baseCommand: cat
      inputs:
        written: {type: File, inputBinding: {position: 1}}
      stdout: copied.txt
      outputs:
        copied: stdout
    in: {written: write/written}
    out: [copied]
"""

_WDL = """\
version 1.0

workflow conformance {
  input {
    File greeting
    Int seconds
  }
  call write { input: greeting = greeting, seconds = seconds }
  call copy { input: written = write.written }
  output {
    File copied = copy.copied
  }
}

task write {
  input {
    File greeting
    Int seconds
  }
  command <<<
    sleep ~{seconds}; cat ~{greeting} > written.txt
  >>>
  output {
    File written = "written.txt"
  }
}

task copy {
  input {
    File written
  }
  command <<<
    cat ~{written} > copied.txt
  >>>
  output {
    File copied = "copied.txt"
  }
}
"""

_NEXTFLOW = """\
nextflow.enable.dsl = 2

process write {
  input: path greeting
  output: path 'written.txt'
  script: "sleep ${params.seconds}; cat ${greeting} > written.txt"
}

process copy {
  publishDir 'results', mode: 'copy'
  input: path written
  output: path 'copied.txt'
  script: "cat ${written} > copied.txt"
}

workflow {
  write(Channel.fromPath(params.greeting))
  copy(write.out)
}
"""


@dataclass(frozen=True, slots=True)
class WorkflowSubmission:
    """What RunWorkflow gets: text fields and attachments."""

    fields: Mapping[str, str]
    attachments: Sequence[tuple[str, bytes]]

    def changed(self, **fields: str | None) -> "WorkflowSubmission":
        """Return a copy with other fields; None leaves a field out."""
        changed = {**self.fields, **fields}
        return WorkflowSubmission(
            {name: text for name, text in changed.items() if text is not None}, self.attachments
        )


@dataclass(frozen=True, slots=True)
class SampleWorkflow:
    """A workflow that a server runs.

    `engine` is the server's name of an engine for its type, "" if that is not known. `files` maps
    the names of attachments to their contents; `url` is the name of the workflow among them.
    `params` is any JSON object. `is_own`: the workflow of this module, which has the parameters
    `greeting` (a file) and `seconds`, with `prefix` before their names.
    """

    type: str
    version: str
    url: str
    files: Mapping[str, bytes]
    params: JsonObject = field(default_factory=dict)
    engine: str = ""
    prefix: str = ""
    is_own: bool = False

    def submission(
        self, version: str, *, seconds: int = 0, greeting: str = "greeting.txt"
    ) -> WorkflowSubmission:
        """Return a run that sleeps for `seconds`, with its input attached as `greeting`.

        It names the engine if `version` of the specification has a field for it.
        """
        params, files = self.params, dict(self.files)
        if self.is_own:
            location: JsonValue = greeting
            if self.type.upper() == "CWL":
                location = {"class": "File", "location": greeting}
            params = {f"{self.prefix}greeting": location, f"{self.prefix}seconds": seconds}
            files[greeting] = GREETING
        fields = {
            "workflow_type": self.type,
            "workflow_type_version": self.version,
            "workflow_url": self.url,
            "workflow_params": json.dumps(params),
            "tags": json.dumps({"purpose": "wes conformance"}),
        }
        if self.engine and version == "1.1.0":
            fields["workflow_engine"] = self.engine
        return WorkflowSubmission(fields, tuple(files.items()))


@dataclass(frozen=True, slots=True)
class _Language:
    """`names` are its names in workflow_type, in capitals; `versions` those of `text`."""

    names: frozenset[str]
    file: str
    text: str
    engines: tuple[str, ...]
    versions: tuple[str, ...] = ()
    prefix: str = ""


_LANGUAGES = (
    _Language(frozenset(("SMK", "SNAKEMAKE")), "Snakefile", _SNAKEFILE, ("snakemake",)),
    _Language(
        frozenset(("CWL",)),
        "conformance.cwl",
        _CWL,
        ("cwltool", "toil", "arvados", "cromwell"),
        ("v1.0", "v1.1", "v1.2"),
    ),
    _Language(
        frozenset(("WDL",)),
        "conformance.wdl",
        _WDL,
        ("cromwell", "miniwdl", "toil"),
        ("1.0",),
        "conformance.",
    ),
    _Language(frozenset(("NFL", "NXF", "NEXTFLOW")), "conformance.nf", _NEXTFLOW, ("nextflow",)),
)


def supported_types(info: Answer) -> list[str]:
    """Return the workflow types of service-info."""
    types = info.value("workflow_type_versions")
    return list(types) if isinstance(types, dict) else []


def supported_versions(info: Answer, workflow_type: str) -> list[str]:
    """Return the versions of a workflow type in service-info."""
    found = info.value("workflow_type_versions", workflow_type, "workflow_type_version")
    return [each for each in found if isinstance(each, str)] if isinstance(found, list) else []


def supported_engines(info: Answer) -> list[str]:
    """Return the names of the engines of service-info."""
    engines = info.value("workflow_engine_versions")
    return list(engines) if isinstance(engines, dict) else []


def choose_workflow(info: Answer, wanted: str | None = None) -> SampleWorkflow | None:
    """Return the first own workflow whose type the server supports, or that of type `wanted`.

    A server that lists no types gets CWL, the specification's first. Return None if the server
    supports none of the languages.
    """
    types = [wanted] if wanted else supported_types(info) or ["CWL"]
    for language in _LANGUAGES:
        for name in types:
            if name.upper() in language.names:
                return _of_language(language, name, info)
    return None


def _of_language(language: _Language, name: str, info: Answer) -> SampleWorkflow:
    listed, offered = supported_versions(info, name), supported_engines(info)
    by_name = {engine.casefold(): engine for engine in reversed(offered)}
    # servers list "v1.0" and "1.0"; the document has the language's own spelling
    spelled = {version.removeprefix("v"): version for version in language.versions}
    known = [version for version in listed if version.removeprefix("v") in spelled]
    version = next(iter([*known, *language.versions, *listed]), "1.0")
    text = language.text.replace("VERSION", spelled.get(version.removeprefix("v"), version), 1)
    return SampleWorkflow(
        type=name,
        version=version,
        url=language.file,
        files={language.file: text.encode()},
        engine=next((by_name[engine] for engine in language.engines if engine in by_name), ""),
        prefix=language.prefix,
        is_own=True,
    )
