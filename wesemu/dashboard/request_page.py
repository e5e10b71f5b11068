"""The request of a run: parameters, files, versions, commands that repeat it, and the form that
runs it again.
"""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from pprint import pformat
from urllib.parse import quote

from wesemu.api.wes.responses import CALLBACK, ECHOED
from wesemu.api.wes.submit import parse_json
from wesemu.dashboard.pages import WebPage, text_of
from wesemu.errors import InvalidRequest
from wesemu.provenance.redaction import redact_urls
from wesemu.runs.model import JsonObject, Run, RunRequest, workflow_kind
from wesemu.runs.ports import DryRunResult
from wesemu.workflows.params import MappingParams

_PLAIN = re.compile(r"[\w./+-]+")
_JOINED = " \\\n  "
_CODE_WIDTH = 92

_AUTHORIZATION = '-H "Authorization: Bearer $WESEMU_TOKEN"'


def request_page(run: Run, attachments: Sequence[str], url: str, *, closed: bool) -> WebPage:
    """Return the request and commands that repeat it on the server at `url`.

    A server that is `closed` needs a token, which the commands take from WESEMU_TOKEN. The commands
    need the attachments in the current folder; the command `files` downloads them there. The URL of
    a workflow has no password, also in the commands.
    """
    asked = run.request
    fetched = {source.file for source in asked.workflow_sources}
    own = [name for name in attachments if name not in fetched]
    content: dict[str, object] = {
        "parameters": {name: text_of(value) for name, value in asked.params.items()},
        "engine_parameters": _engine_parameters(asked),
        "tags": dict(asked.tags),
        "versions": dict(run.tools),
        "workflow_url": redact_urls(asked.workflow_url),
        "workflow_type": asked.workflow_type,
        "workflow_type_version": asked.workflow_type_version,
        "attachments": [
            {"name": name, "url": f"/ui/runs/{run.id}/attachments/{quote(name)}"}
            for name in attachments
        ],
        "files": _fetch(run, own, url, closed=closed) if own else None,
        "curl": _curl(asked, own, url, closed=closed),
        "python": _python(run, own, url),
        "cli": f"wesemu rerun {run.handle} --from-scratch --server {shlex.quote(url)}",
    }
    return WebPage("request.html", f"{run.handle}: request", content)


def rerun_page(
    run: Run,
    form: Mapping[str, str],
    *,
    planned: DryRunResult | None = None,
    message: str | None = None,
) -> WebPage:
    """Return the form that runs the request again, and which tasks would run (`planned`).

    `form`: `from_scratch` ("true") reuses no finished file, `params` are the changed parameters as
    JSON. `message` says what is wrong with them. The form is for runs that have ended.
    """
    graph = None if planned is None else planned.graph
    content: dict[str, object] = {
        "from_scratch": form.get("from_scratch") == "true",
        "reuses": workflow_kind(run.request.workflow_type) == "SMK",
        "params": form.get("params", ""),
        "given": {name: text_of(value) for name, value in run.request.params.items()},
        "message": message,
        "planned": planned is not None,
        "counts": None if graph is None else dict(graph.counts),
        "total": None if graph is None else graph.total,
    }
    return WebPage("rerun.html", f"{run.handle}: run again", content)


def changed_params(text: str) -> JsonObject:
    """Parse the changed parameters of the form. Raises InvalidRequest."""
    values = parse_json("params", text) if text.strip() else {}
    if not isinstance(values, dict):
        raise InvalidRequest('write a JSON object, such as {"sample": "a"}', field="params")
    return values


def _engine_parameters(asked: RunRequest) -> dict[str, str]:
    parameters = dict(asked.engine_parameters)
    return parameters | ({CALLBACK: asked.callback_url} if asked.callback_url else {})


def _fetch(run: Run, names: Sequence[str], url: str, *, closed: bool) -> str:
    words = ["curl -fsSg --create-dirs" + (f" {_AUTHORIZATION}" if closed else "")]
    words += [
        f"-o {shlex.quote(_local(name))} "
        + shlex.quote(f"{url}/ui/runs/{run.id}/attachments/{quote(name)}")
        for name in names
    ]
    return _JOINED.join(words)


def _curl(asked: RunRequest, names: Sequence[str], url: str, *, closed: bool) -> str:
    fields = {
        "workflow_url": redact_urls(asked.workflow_url),
        "workflow_type": asked.workflow_type,
        "workflow_type_version": asked.workflow_type_version,
        "workflow_params": _json(asked.params),
        "workflow_engine_parameters": _json(_engine_parameters(asked)),
        "tags": _json(asked.tags),
        **{name: text_of(asked.echo[name]) for name in ECHOED if name in asked.echo},
    }
    words = [f"curl {shlex.quote(f'{url}/ga4gh/wes/v1/runs')}"] + (
        [_AUTHORIZATION] if closed else []
    )
    # --form-string: -F would read the file of a value that begins with "@"
    words += [
        f"--form-string {shlex.quote(f'{name}={value}')}" for name, value in fields.items() if value
    ]
    words += [
        f"-F {shlex.quote(f'workflow_attachment=@{_word(_local(name))};filename={_word(name)}')}"
        for name in names
    ]
    return _JOINED.join(words)


def _json(values: Mapping[str, object]) -> str:
    return json.dumps(dict(values), ensure_ascii=False) if values else ""


def _local(name: str) -> str:
    """Return the file name; one that begins with a hyphen gets `./`, or it would be an option."""
    return f"./{name}" if name.startswith("-") else name


def _word(name: str) -> str:
    """Return a file name for curl's -F, where commas and semicolons have a meaning."""
    if _PLAIN.fullmatch(name):
        return name
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _python(run: Run, names: Sequence[str], url: str) -> str:
    """Return the lines of Python that send the request with `wesemu.Client`."""
    asked = run.request
    options: dict[str, object] = {}
    if asked.tags:
        options["tags"] = dict(asked.tags)
    if parameters := _engine_parameters(asked):
        options["engine_parameters"] = parameters
    head_lines = ["from wesemu import Client", "", f"client = Client({url!r})"]
    if run.workflow:
        params: JsonObject = {"reference": MappingParams.model_fields["reference"].default}
        call = _call("client.run", [run.workflow], params | asked.params | options)
        return "\n".join([*head_lines, f"run = {call}", "run.wait()"])
    options = {
        "workflow_type": asked.workflow_type,
        "workflow_type_version": asked.workflow_type_version,
        **options,
    }
    main = redact_urls(asked.workflow_url)
    if "://" in main or (main in names and "/" not in main):
        files = {name: _File(name) for name in names if name != main}
        if files:
            options["files"] = files
        source = main if "://" in main else _File(main)
        call = _call("client.submit", [source, asked.params], options)
        last = [f"run = {call}", "run.wait()"]
    else:  # Client.submit sends no file under a name with folders
        options["attachments"] = [(name, _File(name)) for name in names]
        call = _call("client.wes.submit", [main, asked.params], options)
        last = [f"run = client.get(client.call(lambda client: {call}))", "run.wait()"]
    return "\n".join(["from pathlib import Path", "", *head_lines, *last])


class _File:
    """A file in generated Python."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return f"Path({str(PurePosixPath(self._name))!r})"


def _call(function: str, positional: Sequence[object], named: Mapping[str, object]) -> str:
    """Return a call in Python, with an argument on each line."""
    named_lines = [f"{name}={_literal(value)}" for name, value in named.items() if value != ""]
    lines = [*map(_literal, positional), *named_lines]
    return "\n".join([f"{function}(", *(f"    {line}," for line in lines), ")"])


def _literal(value: object) -> str:
    text = pformat(value, width=_CODE_WIDTH, sort_dicts=False)
    return text.replace("\n", "\n    ")
