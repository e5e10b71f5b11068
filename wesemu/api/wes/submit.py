"""RunWorkflow (WES 1.1.0, POST /runs): form, urlencoded and JSON bodies, streamed into a new run.

Text fields may be parts with or without a filename (`curl -F field=@file`). Attachments may come in
any order.
"""

import asyncio
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import parse_qsl

from aiohttp import web

from wesemu.api.base import UNREAD, refuse_encoded
from wesemu.api.wes.multipart import FormPart, FormReader
from wesemu.api.wes.responses import CALLBACK, ECHOED, Limits, ServiceFacts
from wesemu.engine_parameters import canonical, given_parameters, read_flag
from wesemu.errors import InvalidRequest
from wesemu.runs.model import (
    JsonObject,
    JsonValue,
    Owner,
    Run,
    RunRequest,
    SubmissionKey,
    workflow_kind,
)
from wesemu.runs.ports import DryRunResult
from wesemu.runs.serialization import request_to_json
from wesemu.runs.service import RunDraft, RunService
from wesemu.util.text import json_reason, without_repeats

# Engine parameters for the server itself (extensions)

_DRY_RUN = "dry_run"


@dataclass(frozen=True, slots=True)
class WesemuParameters:
    """The server's own engine parameters. `others` are the engine's."""

    others: Mapping[str, str]
    dry_run: bool = False
    callback_url: str | None = None


def split_parameters(parameters: Mapping[str, str]) -> WesemuParameters:
    """Separate the server's parameters from the engine's. `dry_run`, `dry-run` and `--dry-run` are
    equivalent, like for the engines' own parameters. Raises InvalidRequest with the field."""
    try:
        given = {name: value for name, (_, value) in given_parameters(parameters).items()}
    except InvalidRequest as error:
        raise InvalidRequest(
            error.message, field=f"workflow_engine_parameters.{canonical(error.field or '')}"
        ) from None
    return WesemuParameters(
        {
            written: value
            for written, value in parameters.items()
            if canonical(written) not in (_DRY_RUN, CALLBACK)
        },
        dry_run=_flag(_DRY_RUN, given.get(_DRY_RUN, "false")),
        callback_url=given.get(CALLBACK),
    )


def _flag(name: str, text: str) -> bool:
    try:
        return read_flag(text)
    except ValueError as error:
        raise InvalidRequest(f"it {error}", field=f"workflow_engine_parameters.{name}") from None


# Idempotency-Key (draft-ietf-httpapi-idempotency-key-header, section 2), an extension

HEADER = "Idempotency-Key"

_LONGEST = 255


def read_key(headers: Mapping[str, str]) -> str | None:
    """Return the key without the quotes of a structured header, or None. Raises InvalidRequest."""
    text = headers.get(HEADER)
    if text is None:
        return None
    key = text.strip()
    if len(key) > 1 and key[0] == key[-1] == '"':
        key = key[1:-1]
    if not key or len(key) > _LONGEST or not key.isascii() or not key.isprintable():
        raise InvalidRequest(
            f"it must have 1 to {_LONGEST} printable ASCII letters; a UUID is a good one",
            field=HEADER,
        )
    return key


class RequestFingerprint:
    """A digest of a submission with a key: field values, names and contents of attachments.

    It depends neither on the encoding of the body nor on the order of attachments.
    """

    def __init__(self, key: str | None) -> None:
        self._key = key
        self._attachments: dict[str, hashlib._Hash] = {}

    def attachment(self, name: str) -> Callable[[bytes], None] | None:
        """Return a function that takes the content of an attachment in blocks.

        None without a key, which is the only use of the digest.
        """
        if self._key is None:
            return None
        content = self._attachments[name] = hashlib.sha256()
        return content.update

    def key(self, request: RunRequest) -> SubmissionKey | None:
        if self._key is None:
            return None
        contents = {name: content.hexdigest() for name, content in self._attachments.items()}
        # as stored: a later version then finds the same digest for the same request
        whole = [request_to_json(request), contents]
        text = json.dumps(whole, sort_keys=True, ensure_ascii=False)
        return SubmissionKey(self._key, hashlib.sha256(text.encode()).hexdigest())


# Fields of RunRequest (WES 1.1.0, schema RunRequest)

TEXTS = ("workflow_url", "workflow_type", "workflow_type_version", *ECHOED)
OBJECTS = ("workflow_params", "tags", "workflow_engine_parameters")
ATTACHMENT = "workflow_attachment"

_DEPTH_LIMIT = 64
_TEXT_LIMIT = 2048


@dataclass(frozen=True, slots=True)
class RunForm:
    """A parsed submission. With `dry_run`, only plan the run."""

    request: RunRequest
    dry_run: bool = False


def parse_form(
    fields: Mapping[str, JsonValue], attachments: Sequence[str], facts: ServiceFacts
) -> RunForm:
    """Parse all fields. The core checks their meaning.

    `fields` maps the specification's names to text, or to JSON values if the body is JSON. Unknown
    fields are ignored. Without workflow_url, a single attachment is the workflow. Raises
    InvalidRequest with the field.
    """
    texts = {name: _text(name, fields.get(name)) for name in TEXTS}
    url = texts["workflow_url"] or _single_attachment(attachments, facts)
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
        callback_url=own.callback_url,
    )
    return RunForm(request, dry_run=own.dry_run)


def parse_json(name: str, text: str) -> JsonValue:
    """Parse strict JSON: no NaN, no lone surrogates, no name twice, limited depth. Raises
    InvalidRequest."""
    try:
        value: JsonValue = json.loads(text, object_pairs_hook=without_repeats)
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except RecursionError as error:
        raise _invalid(name, "is nested too deeply") from error
    except ValueError as error:
        raise InvalidRequest(f"it is {json_reason(error)}", field=name) from error
    if _depth(value) > _DEPTH_LIMIT:
        raise _invalid(name, f"is nested more than {_DEPTH_LIMIT} levels deep")
    return value


def _text(name: str, value: JsonValue) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _invalid(name, "must be a string")
    if len(value) > _TEXT_LIMIT:
        raise _invalid(name, f"is longer than {_TEXT_LIMIT} letters")
    return value.strip()


def _object(name: str, value: JsonValue) -> JsonObject:
    """Return an object, given as JSON or as its text. None and "" are an empty object."""
    if isinstance(value, str):
        value = parse_json(name, value) if value.strip() else None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _invalid(name, "must be a JSON object")
    return value


def _tags(value: JsonValue) -> dict[str, str]:
    tags: dict[str, str] = {}
    for key, tag in _object("tags", value).items():
        if not isinstance(tag, str):
            raise _invalid("tags", f"must map to strings; {key[:40]!r} does not")
        tags[key] = tag
    return tags


def _engine_parameters(value: JsonValue) -> dict[str, str]:
    """Return strings. Numbers and booleans become JSON text; toil's {"--flag": null} becomes ""."""
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
                raise _invalid(
                    "workflow_engine_parameters", f"must map to strings; {key[:40]!r} does not"
                )
    return parameters


def _single_attachment(attachments: Sequence[str], facts: ServiceFacts) -> str:
    if len(attachments) == 1:
        return attachments[0]
    bundled = " or ".join(facts.bundled)
    raise _invalid(
        "workflow_url", f"is missing; name a bundled pipeline ({bundled}) or one of the attachments"
    )


def _default_type(url: str, facts: ServiceFacts) -> str:
    """Return a bundled pipeline's type. For others, WES requires workflow_type."""
    if url in facts.bundled:
        return facts.bundled[url]
    raise _invalid("workflow_type", "is missing; service-info lists those that this server runs")


def _check_engine(texts: Mapping[str, str], kind: str, facts: ServiceFacts) -> None:
    engine, version = texts["workflow_engine"], texts["workflow_engine_version"]
    installed = {name.casefold(): number for name, number in facts.engines.items()}
    if engine and engine.casefold() not in installed:
        known = ", ".join(facts.engines)
        raise _invalid("workflow_engine", f"is {engine[:40]!r}; this server has {known}")
    carrier = facts.carriers.get(workflow_kind(kind))
    if engine and carrier is not None and carrier.casefold() != engine.casefold():
        raise _invalid("workflow_engine", f"is {engine!r}; {kind} runs with {carrier}")
    if version and not engine:
        raise _invalid("workflow_engine", "is required beside workflow_engine_version")
    if version and not f"{installed[engine.casefold()]}.".startswith(f"{version}."):
        raise _invalid(
            "workflow_engine_version",
            f"is {version[:40]!r}; this server has {engine} {installed[engine.casefold()]}",
        )


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


def _invalid(name: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"it {why}", field=name)


# Bodies

_FIELDS = frozenset(TEXTS + OBJECTS)
_ATTACHMENTS = frozenset({ATTACHMENT, f"{ATTACHMENT}[]"})


class RunSubmission:
    """Receives the requests of RunWorkflow."""

    def __init__(
        self,
        runs: RunService,
        facts: ServiceFacts,
        limits: Limits,
        check_callback: Callable[[str], None],
    ) -> None:
        self._runs = runs
        self._check_callback = check_callback
        self._facts = facts
        self._limits = limits

    async def receive(
        self, owner: Owner, request: web.Request, *, dry_run: bool = False
    ) -> Run | DryRunResult:
        """Read the body and submit the run, or plan it with `dry_run` or if the body asks for it.

        Files of refused requests and of dry runs are removed. Raises what RunService.submit raises,
        and HTTPRequestEntityTooLarge (413).
        """
        request[UNREAD] = []
        fingerprint = RequestFingerprint(read_key(request.headers))
        refuse_encoded(request)
        draft = None
        match request.content_type:
            case "multipart/form-data":
                form, draft = await self._receive_form(request, fingerprint)
            case "application/x-www-form-urlencoded":
                form = await self._parse_form(await self._read_urlencoded(request), ())
            case "application/json":
                form = await self._parse_form(await self._read_json(request), ())
            case other:
                raise InvalidRequest(
                    f"the body is {other}; send multipart/form-data, "
                    "application/x-www-form-urlencoded or application/json",
                    field="Content-Type",
                )
        if dry_run or form.dry_run:
            return await self._runs.dry_run(owner, form.request, draft)
        key = fingerprint.key(form.request)
        return await self._runs.submit(owner, form.request, draft, key=key)

    async def _receive_form(
        self, request: web.Request, fingerprint: RequestFingerprint
    ) -> tuple[RunForm, RunDraft]:
        _refuse_large(request, self._limits.upload)
        draft = await self._runs.draft()
        try:
            return await self._read_form(request, draft, fingerprint), draft
        except BaseException:
            await self._runs.discard(draft)
            raise

    async def _read_form(
        self, request: web.Request, draft: RunDraft, fingerprint: RequestFingerprint
    ) -> RunForm:
        fields: dict[str, JsonValue] = {}
        attachments: list[str] = []
        reader = FormReader.of(request, upload=self._limits.upload, parts=self._limits.parts)
        async for part in reader:
            if part.filename == "" and part.name not in _FIELDS and await _is_empty(part):
                continue  # a browser's empty file field
            if part.name in _ATTACHMENTS and part.filename is None:
                await _refuse_text(part)
            elif part.name in _ATTACHMENTS:
                attachments.append(await _attach(part, draft, fingerprint))
            elif part.name in _FIELDS:
                _set(fields, part.name, await part.text(self._limits.field))
            elif part.filename is not None:
                raise InvalidRequest(
                    f"the file {part.filename[:80]!r} came as {part.name[:80]!r}; send files "
                    f"as {ATTACHMENT}",
                    field=part.name,
                )
            else:
                request[UNREAD].append(part.name)
        return await self._parse_form(fields, attachments)

    async def _parse_form(
        self, fields: Mapping[str, JsonValue], attachments: Sequence[str]
    ) -> RunForm:
        form = await asyncio.to_thread(parse_form, fields, attachments, self._facts)
        if form.request.callback_url is not None:
            self._check_callback(form.request.callback_url)
        return form

    async def _read_urlencoded(self, request: web.Request) -> dict[str, JsonValue]:
        text = await self.read_text(request)
        pairs = await asyncio.to_thread(_pairs, text, self._limits.parts)
        fields: dict[str, JsonValue] = {}
        for name, value in pairs:
            if name in _ATTACHMENTS and _names_files(value):
                raise _attachments_need_form()
            if name in _FIELDS:
                _set(fields, name, value)
            else:
                request[UNREAD].append(name)
        return fields

    async def _read_json(self, request: web.Request) -> dict[str, JsonValue]:
        body = await asyncio.to_thread(parse_json, "the body", await self.read_text(request))
        if not isinstance(body, dict):
            raise InvalidRequest("the body must be a JSON object with the fields of RunRequest")
        if any(_names_files(body.get(name)) for name in _ATTACHMENTS):
            raise _attachments_need_form()
        request[UNREAD] += [name for name in body if name not in _FIELDS]
        return body

    async def read_text(self, request: web.Request) -> str:
        """Return a body of bounded size in UTF-8. Raises InvalidRequest and 413."""
        content = bytearray()
        _refuse_large(request, self._limits.body)
        async for chunk in request.content.iter_any():
            content += chunk
            if len(content) > self._limits.body:
                raise web.HTTPRequestEntityTooLarge(self._limits.body)
        try:
            return content.decode()
        except UnicodeDecodeError as error:
            raise InvalidRequest(f"the body is not UTF-8 (byte {error.start})") from error


async def _is_empty(part: FormPart) -> bool:
    """Return True for an empty part. Raises InvalidRequest for a file without a name."""
    async for chunk in part.chunks:
        if chunk:
            raise InvalidRequest("a file has no name; give every file a name", field=part.name)
    return True


def _refuse_large(request: web.Request, limit: int) -> None:
    """Raise a 413 before reading the body, if the client declares its size."""
    if (length := request.content_length) is not None and length > limit:
        raise web.HTTPRequestEntityTooLarge(max_size=limit, actual_size=length)


def refuse_callbacks(url: str) -> None:
    """Raise InvalidRequest: this server sends no callbacks."""
    raise InvalidRequest(
        f"it is {url[:80]!r}; this server sends no callbacks",
        field="workflow_engine_parameters.callback_url",
    )


def _pairs(text: str, most: int) -> list[tuple[str, str]]:
    if text.count("&") >= most:
        raise InvalidRequest(f"the form has more than {most} fields")
    try:
        return parse_qsl(text, keep_blank_values=True, errors="strict")
    except UnicodeDecodeError as error:
        raise InvalidRequest("the body is not UTF-8 in percent-encoding") from error


def _names_files(value: JsonValue) -> bool:
    """Return False for what clients send for no attachments: null, "", [] and the text "[]"."""
    if isinstance(value, str):
        value = value.strip()
    return bool(value) and value != "[]"


async def _refuse_text(part: FormPart) -> None:
    """Raise InvalidRequest for an attachment without a filename, unless it lists no attachments."""
    content = bytearray()
    async for chunk in part.chunks:
        content += chunk
        if len(content) > _TEXT_LIMIT:
            break
    if _names_files(content.decode(errors="replace")):
        raise InvalidRequest(
            "it has no filename in its Content-Disposition; send the content of each file, with "
            "its filename (a list of URLs is not fetched)",
            field=part.name,
        )


async def _attach(part: FormPart, draft: RunDraft, fingerprint: RequestFingerprint) -> str:
    """Write a part to the draft; return its filename."""
    assert part.filename is not None
    try:
        digest = fingerprint.attachment(part.filename)
        await draft.files.attach(part.filename, part.chunks, digest)
    except InvalidRequest as error:
        error.field = error.field or ATTACHMENT
        raise
    return part.filename


def _set(fields: dict[str, JsonValue], name: str, value: str) -> None:
    if name in fields:
        raise InvalidRequest("it was sent twice", field=name)
    fields[name] = value


def _attachments_need_form() -> InvalidRequest:
    return InvalidRequest("it needs a multipart/form-data body with a file in it", field=ATTACHMENT)
