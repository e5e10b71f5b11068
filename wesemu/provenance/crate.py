"""A run as a Workflow Run RO-Crate 0.5 (https://w3id.org/ro/wfrun/workflow/0.5). Needs ro-crate-py.

The crate conforms to RO-Crate 1.1 and to the profiles Process Run Crate, Workflow Run Crate and
Workflow RO-Crate: the workflow as its main entity with its formal parameters, and one CreateAction,
the run, with its agent, its inputs, its results and its times.
"""

import io
import json
from typing import Any
from urllib.parse import quote

from rocrate.model.computerlanguage import ComputerLanguage
from rocrate.model.contextentity import ContextEntity
from rocrate.model.file import File
from rocrate.rocrate import ROCrate

from wesemu import __version__
from wesemu.provenance.facts import Facts, InputFile, PartFile, ResultFile, is_location
from wesemu.runs.model import JsonValue, RunState

PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": "Process Run Crate",
    "https://w3id.org/ro/wfrun/workflow/0.5": "Workflow Run Crate",
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0": "Workflow RO-Crate",
}
_TERMS = "https://w3id.org/ro/terms/workflow-run/context"
_PARAMETER = "https://bioschemas.org/profiles/FormalParameter/1.0-RELEASE"
_TOOLS = "wesemu.tools."
_KNOWN_LANGUAGES = {"SMK": "snakemake", "CWL": "cwl"}


def build(facts: Facts) -> Any:
    """A rocrate.ROCrate whose files are read when it is written."""
    crate = ROCrate(version="1.1")
    crate.metadata.extra_contexts.append(_TERMS)
    run = facts.run
    crate.name = f"Run {run.handle} of {run.workflow or run.request.workflow_url}"
    crate.description = (
        f"A workflow run that ended as {run.state} on wesemu {__version__}, a local emulator of "
        "GA4GH WES. Times are those of the emulated clock."
    )
    crate.license = "Whoever sent the run has not stated a license."
    if run.ended is not None:
        crate.root_dataset["datePublished"] = run.ended.isoformat(timespec="seconds")
    _add_profiles(crate)
    workflow = _add_workflow(crate, facts)
    formal = {name: _formal(crate, "input", name, _kind(value)) for name, value in _given(facts)}
    objects = [_add_value(crate, name, value, formal[name]) for name, value in _given(facts)]
    objects += [_add_input(crate, file, formal[file.parameter]) for file in facts.inputs]
    objects += [_add_part(crate, part) for part in facts.parts[1:]]
    results = [_add_result(crate, result) for result in facts.results]
    workflow["input"] = [*formal.values()]
    workflow["output"] = [result["exampleOfWork"] for result in results]
    action = _add_action(crate, facts, workflow)
    action["object"], action["result"] = objects, results
    server = _software(crate, "wesemu", __version__)
    crate.root_dataset["mentions"] = [action, server]
    _add_log(crate, facts, action)
    return crate


def _add_profiles(crate: Any) -> None:
    profiles = [
        _entity(crate, url, "CreativeWork", name=name, version=url.rpartition("/")[2])
        for url, name in PROFILES.items()
    ]
    crate.root_dataset["conformsTo"] = profiles


def _add_workflow(crate: Any, facts: Facts) -> Any:
    main, run = facts.parts[0], facts.run
    version = facts.engine[1] if facts.engine else None
    language: Any = _KNOWN_LANGUAGES.get(facts.language)
    if language is None:
        language = crate.add(
            ComputerLanguage(crate, f"#{facts.language}", properties={"name": facts.language})
        )
    workflow = crate.add_workflow(
        main.path, main.name, main=True, lang=language, properties=_part_properties(main)
    )
    workflow["name"] = run.workflow or run.request.workflow_url
    tools = {
        tag.removeprefix(_TOOLS): told for tag, told in run.tags.items() if tag.startswith(_TOOLS)
    }
    if facts.engine is not None:
        tools = {facts.engine[0]: facts.engine[1], **tools}
        workflow["runtimePlatform"] = f"{facts.engine[0]} {version}"
    workflow["softwareRequirements"] = [
        _software(crate, name, told) for name, told in tools.items()
    ]
    return workflow


def _software(crate: Any, name: str, version: str) -> Any:
    identifier = f"#software-{quote(name, safe='')}"
    return _entity(crate, identifier, "SoftwareApplication", name=name, softwareVersion=version)


def _given(facts: Facts) -> list[tuple[str, JsonValue]]:
    return [(name, told) for name, told in facts.run.request.params.items() if told is not None]


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
            return "File" if is_location(value) else "Text"
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
    told: dict[str, Any] = {"name": file.url, "exampleOfWork": formal}
    if file.size is not None:
        told["contentSize"] = str(file.size)
    if file.sha256 is not None:
        told["sha256"] = file.sha256
    return crate.add(File(crate, quote(file.url, safe=":/?&=%+@,;~"), properties=told))


def _add_part(crate: Any, part: PartFile) -> Any:
    properties = _part_properties(part)
    if part.path is not None:
        return crate.add(File(crate, part.path, part.name, properties=properties))
    return _entity(crate, f"#{quote(part.name)}", "CreativeWork", **properties)


def _part_properties(part: PartFile) -> dict[str, Any]:
    told: dict[str, Any] = {"name": part.name, "contentSize": str(part.size)}
    if part.url is not None:
        told["url"] = part.url
    return told


def _add_result(crate: Any, result: ResultFile) -> Any:
    output = result.output
    place = f"{result.url}/outputs/{quote(output.path)}"
    told: dict[str, Any] = {
        "name": output.name,
        "contentSize": str(output.size),
        "exampleOfWork": _formal(crate, "output", output.name, "File"),
    }
    if output.sha256 is not None:
        told["sha256"] = output.sha256
    if output.published is not None:
        told["alternateName"] = output.published
    if result.path is None:
        return crate.add(File(crate, place, properties=told))
    return crate.add(File(crate, result.path, f"outputs/{output.path}", properties=told))


def _add_action(crate: Any, facts: Facts, workflow: Any) -> Any:
    run = facts.run
    agent = _entity(crate, f"#owner-{quote(run.owner, safe='')}", "Person", name=str(run.owner))
    complete = run.state is RunState.COMPLETE
    status = "Completed" if complete else "Failed"
    told: dict[str, Any] = {
        "name": f"Run {run.handle}",
        "identifier": run.id,
        "url": facts.url,
        "instrument": workflow,
        "agent": agent,
        "actionStatus": {"@id": f"http://schema.org/{status}ActionStatus"},
    }
    if run.started is not None:
        told["startTime"] = run.started.isoformat(timespec="seconds")
    if run.ended is not None:
        told["endTime"] = run.ended.isoformat(timespec="seconds")
    if not complete:
        told["error"] = run.failure.message if run.failure else f"the run ended as {run.state}"
    return _entity(crate, f"#run-{run.id}", "CreateAction", **told)


def _add_log(crate: Any, facts: Facts, action: Any) -> None:
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


def _entity(crate: Any, entity_id: str, kind: str, /, **properties: Any) -> Any:
    told = {"@type": kind, **properties}
    return crate.add(ContextEntity(crate, entity_id, properties=told))
