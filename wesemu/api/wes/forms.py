"""The fields of RunWorkflow, however they came, as the core's words."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wesemu.api.wes.facts import ServiceFacts
from wesemu.api.wes.own_parameters import split_parameters
from wesemu.api.wes.render import CALLBACK, ECHOED
from wesemu.errors import InvalidRequest
from wesemu.runs.model import JsonObject, JsonValue, RunRequest, workflow_kind
from wesemu.wording import json_reason

TEXTS = ("workflow_url", "workflow_type", "workflow_type_version", *ECHOED)
OBJECTS = ("workflow_params", "tags", "workflow_engine_parameters")
ATTACHMENT = "workflow_attachment"

_DEPTH_LIMIT = 64
_TEXT_LIMIT = 2048


@dataclass(frozen=True, slots=True)
class Order:
    """What RunWorkflow was asked: a run, or with `dry_run` only whether it could be one."""

    request: RunRequest
    dry_run: bool = False


def read_order(
    fields: Mapping[str, JsonValue], attachments: Sequence[str], facts: ServiceFacts
) -> Order:
    """Check the form of all fields; what they mean is the core's affair.

    `fields` maps the specification's names to text, or in a JSON body to values; others are
    ignored. A single attachment is the workflow when no workflow_url came. Raises
    InvalidRequest, naming the field.
    """
    texts = {name: _text(name, fields.get(name)) for name in TEXTS}
    url = texts["workflow_url"] or _only(attachments, facts)
    kind = texts["workflow_type"] or _default_type(url, facts)
    _check_engine(texts, kind, facts)
    own = split_parameters(_engine_parameters(fields.get("workflow_engine_parameters")))
    request = RunRequest(
        workflow_url=url,
        workflow_type=kind,
        workflow_type_version=texts["workflow_type_version"],
        params=_object("workflow_params", fields.get("workflow_params")),
        tags=_tags(fields.get("tags")),
        engine_parameters=own.others,
        echo={name: texts[name] for name in ECHOED if texts[name]},
        marks={} if own.callback_url is None else {CALLBACK: own.callback_url},
    )
    return Order(request, dry_run=own.dry_run)


def parse_json(name: str, text: str) -> JsonValue:
    """Strict JSON: no NaN, no lone surrogates, no deep nesting. Raises InvalidRequest."""
    try:
        value: JsonValue = json.loads(text)
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except RecursionError as error:
        raise _wrong(name, "is nested too deeply") from error
    except ValueError as error:
        raise InvalidRequest(f"{name} is {json_reason(error)}", field=name) from error
    if _depth(value) > _DEPTH_LIMIT:
        raise _wrong(name, f"is nested more than {_DEPTH_LIMIT} levels deep")
    return value


def _text(name: str, value: JsonValue) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _wrong(name, "must be a string")
    if len(value) > _TEXT_LIMIT:
        raise _wrong(name, f"is longer than {_TEXT_LIMIT} letters")
    return value.strip()


def _object(name: str, value: JsonValue) -> JsonObject:
    """An object, or the text of one; nothing and an empty text are an empty object."""
    if isinstance(value, str):
        value = parse_json(name, value) if value.strip() else None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _wrong(name, "must be a JSON object")
    return value


def _tags(value: JsonValue) -> dict[str, str]:
    tags: dict[str, str] = {}
    for key, tag in _object("tags", value).items():
        if not isinstance(tag, str):
            raise _wrong("tags", f"must map to strings; {key[:40]!r} does not")
        tags[key] = tag
    return tags


def _engine_parameters(value: JsonValue) -> dict[str, str]:
    """Strings; numbers and booleans as JSON writes them; toil's {"--flag": null} as ""."""
    parameters: dict[str, str] = {}
    for key, parameter in _object("workflow_engine_parameters", value).items():
        match parameter:
            case str():
                parameters[key] = parameter
            case None:
                parameters[key] = ""
            case bool() | int() | float():
                parameters[key] = json.dumps(parameter)
            case _:
                raise _wrong(
                    "workflow_engine_parameters", f"must map to strings; {key[:40]!r} does not"
                )
    return parameters


def _only(attachments: Sequence[str], facts: ServiceFacts) -> str:
    if len(attachments) == 1:
        return attachments[0]
    bundled = " or ".join(facts.bundled)
    raise _wrong(
        "workflow_url",
        f"is missing; name a bundled pipeline ({bundled}) or one of the attachments",
    )


def _default_type(url: str, facts: ServiceFacts) -> str:
    """WES requires workflow_type; of a bundled pipeline it is known."""
    if url in facts.bundled:
        return facts.bundled[url]
    raise _wrong("workflow_type", "is missing; service-info lists those that this server runs")


def _check_engine(texts: Mapping[str, str], kind: str, facts: ServiceFacts) -> None:
    engine = texts["workflow_engine"]
    if engine and engine.casefold() not in {name.casefold() for name in facts.engines}:
        known = ", ".join(facts.engines)
        raise _wrong("workflow_engine", f"is {engine[:40]!r}; this server has {known}")
    carrier = facts.carriers.get(workflow_kind(kind))
    if engine and carrier is not None and carrier.casefold() != engine.casefold():
        raise _wrong("workflow_engine", f"is {engine!r}; {kind} is carried out by {carrier}")
    if texts["workflow_engine_version"] and not engine:
        raise _wrong("workflow_engine", "is required beside workflow_engine_version")


def _depth(value: JsonValue) -> int:
    depth, level = 0, [value]
    while level:
        depth += 1
        level = [
            child
            for parent in level
            if isinstance(parent, list | dict)
            for child in (parent.values() if isinstance(parent, dict) else parent)
        ]
    return depth


def _wrong(name: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"{name} {why}", field=name)
