"""POST /runs: a body as real clients send it, streamed into a new run.

Text fields may be parts with or without a filename (`curl -F field=@file`), attachments come in
any place; urlencoded and JSON bodies are taken as well.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from email.message import Message
from urllib.parse import parse_qsl

from aiohttp import web

from wesemu.api.wes.facts import Limits, ServiceFacts
from wesemu.api.wes.forms import ATTACHMENT, OBJECTS, TEXTS, Order, parse_json, read_order
from wesemu.api.wes.keys import Fingerprint, read_key
from wesemu.api.wes.multipart import FormReader, Part
from wesemu.api.wes.render import CALLBACK
from wesemu.errors import InvalidRequest
from wesemu.runs.model import JsonValue, Owner, Run
from wesemu.runs.ports import Rehearsal
from wesemu.runs.service import RunDraft, RunService

_FIELDS = frozenset(TEXTS + OBJECTS)
_ATTACHMENTS = frozenset({ATTACHMENT, f"{ATTACHMENT}[]"})


class Submissions:
    """Takes the requests of RunWorkflow."""

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

    async def receive(self, owner: Owner, request: web.Request) -> Run | Rehearsal:
        """Read the body and submit it; nothing is left of one that was refused, or that was a
        dry run: of that, the Rehearsal is told.

        Raises what RunService.submit raises, and HTTPRequestEntityTooLarge (413).
        """
        key = read_key(request.headers)
        _refuse_encoded(request)
        match request.content_type:
            case "multipart/form-data":
                return await self._receive_form(owner, request, key)
            case "application/x-www-form-urlencoded":
                fields = await self._read_urlencoded(request)
            case "application/json":
                fields = await self._read_json(request)
            case other:
                raise InvalidRequest(
                    f"the body is {other}; send multipart/form-data, "
                    "application/x-www-form-urlencoded or application/json",
                    field="Content-Type",
                )
        order = await self._read_order(fields, ())
        return await self._carry_out(owner, order, None, key, Fingerprint())

    async def _receive_form(
        self, owner: Owner, request: web.Request, key: str | None
    ) -> Run | Rehearsal:
        _refuse_large(request, self._limits.upload)
        draft = await self._runs.draft()
        fingerprint = Fingerprint()
        try:
            order = await self._read_form(request, draft, fingerprint)
        except BaseException:
            await self._runs.discard(draft)
            raise
        return await self._carry_out(owner, order, draft, key, fingerprint)

    async def _carry_out(
        self,
        owner: Owner,
        order: Order,
        draft: RunDraft | None,
        key: str | None,
        fingerprint: Fingerprint,
    ) -> Run | Rehearsal:
        if order.dry_run:
            return await self._runs.rehearse(owner, order.request, draft)
        key_of_request = fingerprint.key(key, order.request)
        return await self._runs.submit(owner, order.request, draft, key=key_of_request)

    async def _read_form(
        self, request: web.Request, draft: RunDraft, fingerprint: Fingerprint
    ) -> Order:
        fields: dict[str, JsonValue] = {}
        attachments: list[str] = []
        reader = FormReader(
            request.content,
            _boundary(request),
            upload=self._limits.upload,
            parts=self._limits.parts,
        )
        try:
            async for part in reader:
                if part.filename == "" and part.name not in _FIELDS and await _is_empty(part):
                    continue  # a browser's file field in which nothing was chosen
                if part.name in _ATTACHMENTS:
                    attachments.append(await _attach(part, draft, fingerprint))
                elif part.name in _FIELDS:
                    _set(fields, part.name, await part.text(self._limits.field))
                elif part.filename is not None:
                    raise InvalidRequest(
                        f"the file {part.filename[:80]!r} came as {part.name[:80]!r}; send files "
                        f"as {ATTACHMENT}",
                        field=part.name,
                    )
        except web.RequestPayloadError as error:
            raise _unreadable() from error
        return await self._read_order(fields, attachments)

    async def _read_order(
        self, fields: Mapping[str, JsonValue], attachments: Sequence[str]
    ) -> Order:
        order = await asyncio.to_thread(read_order, fields, attachments, self._facts)
        if CALLBACK in order.request.marks:
            self._check_callback(order.request.marks[CALLBACK])
        return order

    async def _read_urlencoded(self, request: web.Request) -> dict[str, JsonValue]:
        text = await self._read_text(request)
        pairs = await asyncio.to_thread(_pairs, text, self._limits.parts)
        fields: dict[str, JsonValue] = {}
        for name, value in pairs:
            if name in _ATTACHMENTS and value:
                raise _attachments_need_form()
            if name in _FIELDS:
                _set(fields, name, value)
        return fields

    async def _read_json(self, request: web.Request) -> dict[str, JsonValue]:
        body = await asyncio.to_thread(parse_json, "the body", await self._read_text(request))
        if not isinstance(body, dict):
            raise InvalidRequest("the body must be a JSON object with the fields of RunRequest")
        if any(body.get(name) for name in _ATTACHMENTS):
            raise _attachments_need_form()
        return body

    async def _read_text(self, request: web.Request) -> str:
        content = bytearray()
        _refuse_large(request, self._limits.body)
        try:
            async for chunk in request.content.iter_any():
                content += chunk
                if len(content) > self._limits.body:
                    raise web.HTTPRequestEntityTooLarge(self._limits.body)
            return content.decode()
        except web.RequestPayloadError as error:
            raise _unreadable() from error
        except UnicodeDecodeError as error:
            raise InvalidRequest(f"the body is not UTF-8 (byte {error.start})") from error


async def _is_empty(part: Part) -> bool:
    """Raises InvalidRequest for a part with content but without a file name."""
    async for chunk in part.chunks:
        if chunk:
            raise InvalidRequest("a file has no name; give every file a name", field=part.name)
    return True


def _refuse_encoded(request: web.Request) -> None:
    """Bodies are read as they come, so that nothing small can become something large."""
    encoding = request.headers.get("Content-Encoding", "").strip().lower()
    if encoding not in ("", "identity"):
        raise InvalidRequest(
            f"the body has the Content-Encoding {encoding[:40]!r}; send it as it is",
            field="Content-Encoding",
        )


def _refuse_large(request: web.Request, limit: int) -> None:
    """Before any of it is read, where the client says how large it is."""
    if (length := request.content_length) is not None and length > limit:
        raise web.HTTPRequestEntityTooLarge(max_size=limit, actual_size=length)


def refuse_callbacks(url: str) -> None:
    """For a server that sends none."""
    raise InvalidRequest(
        f"the engine parameter callback_url is {url[:80]!r}; this server sends no callbacks",
        field="workflow_engine_parameters.callback_url",
    )


def _pairs(text: str, most: int) -> list[tuple[str, str]]:
    if text.count("&") >= most:
        raise InvalidRequest(f"the form has more than {most} fields")
    try:
        return parse_qsl(text, keep_blank_values=True, errors="strict")
    except UnicodeDecodeError as error:
        raise InvalidRequest("the body is not UTF-8 in percent-encoding") from error


async def _attach(part: Part, draft: RunDraft, fingerprint: Fingerprint) -> str:
    """Stream a part into the draft; its name. RunWorkflow: "must have … a filename"."""
    if part.filename is None:
        raise InvalidRequest(
            f"a {ATTACHMENT} has no filename in its Content-Disposition", field=ATTACHMENT
        )
    try:
        chunks = fingerprint.reading(part.filename, part.chunks)
        await draft.files.attach(part.filename, chunks)
    except InvalidRequest as error:
        error.field = error.field or ATTACHMENT
        raise
    return part.filename


def _boundary(request: web.Request) -> str:
    header = Message()
    header["Content-Type"] = request.headers.get("Content-Type", "")
    return header.get_boundary("")


def _set(fields: dict[str, JsonValue], name: str, value: str) -> None:
    if name in fields:
        raise InvalidRequest(f"{name} was sent twice", field=name)
    fields[name] = value


def _unreadable() -> InvalidRequest:
    return InvalidRequest("the body is cut off or not encoded as its headers say")


def _attachments_need_form() -> InvalidRequest:
    return InvalidRequest(
        f"{ATTACHMENT} needs a multipart/form-data body with a file in it", field=ATTACHMENT
    )
