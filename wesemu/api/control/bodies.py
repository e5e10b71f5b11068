"""Bodies of the control API: one JSON object each, an empty body standing for `{}`."""

import asyncio
import json
from typing import NoReturn, TypeVar

from aiohttp import web
from pydantic import BaseModel, ValidationError

from wesemu.errors import InvalidRequest
from wesemu.runs.model import JsonObject, JsonValue
from wesemu.wording import json_reason, validation_reason

_Body = TypeVar("_Body", bound=BaseModel)

_LONGEST = 64 << 10
_TYPES = frozenset(
    {
        "application/json",
        "text/json",
        # what clients send that were not told a type
        "application/octet-stream",
        "application/x-www-form-urlencoded",
        "text/plain",
    }
)


async def read(request: web.Request, kind: type[_Body]) -> _Body:
    """The body as a `kind`, to the letter: nothing is converted, unknown members and members
    that come twice are refused, and so is a query.

    Raises InvalidRequest naming the first member that is wrong.
    """
    _check_headers(request)
    content = await request.read()
    if len(content) > _LONGEST:
        raise InvalidRequest(f"the body is longer than {_LONGEST} bytes")
    body = await asyncio.to_thread(_parse, content)
    try:
        return kind.model_validate(body, strict=True)
    except ValidationError as error:
        field, reason = validation_reason(error)
        raise InvalidRequest(
            f"{field}: {reason}" if field else f"the body: {reason}", field=field or None
        ) from error


async def read_nothing(request: web.Request) -> None:
    """For an operation without a body. Raises InvalidRequest where there is one, or a query:
    it might ask for something else than what is done."""
    _check_headers(request)
    if (await request.read()).strip() not in (b"", b"{}"):
        raise InvalidRequest(f"{request.method} {request.path} takes no body; leave it out")


def answer(content: BaseModel, status: int = 200) -> web.Response:
    return web.Response(
        text=content.model_dump_json(), content_type="application/json", status=status
    )


def _check_headers(request: web.Request) -> None:
    if request.query_string:
        raise InvalidRequest(
            f"{request.method} {request.path} takes no query; write a JSON object into the body",
            field=next(iter(request.query), None),
        )
    kind = request.content_type
    if kind not in _TYPES and not kind.endswith("+json"):
        raise InvalidRequest(
            f"the body is {kind[:80]}; send application/json", field="Content-Type"
        )
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise InvalidRequest("the body is compressed; send it as it is", field="Content-Encoding")


def _parse(content: bytes) -> JsonObject:
    try:
        body: JsonValue = json.loads(
            content.decode() or "{}",
            object_pairs_hook=_without_repeats,
            parse_constant=_refuse_constant,
        )
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(
            f"the body is {json_reason(error)}; send one JSON object in UTF-8"
        ) from error
    if not isinstance(body, dict):
        raise InvalidRequest("the body is JSON, but not an object; send one JSON object")
    return body


def _without_repeats(pairs: list[tuple[str, JsonValue]]) -> JsonObject:
    members: JsonObject = {}
    for name, value in pairs:
        if name in members:
            raise InvalidRequest(f"{name[:80]}: is given twice; name it once", field=name[:80])
        members[name] = value
    return members


def _refuse_constant(name: str) -> NoReturn:
    raise InvalidRequest(f"{name} is no JSON; write a finite number")
