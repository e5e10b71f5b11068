"""Bodies of the control API: one JSON object each, an empty body standing for `{}`."""

from typing import TypeVar

from aiohttp import web
from pydantic import BaseModel, ValidationError

from wesemu.errors import InvalidRequest

_Body = TypeVar("_Body", bound=BaseModel)


async def read(request: web.Request, kind: type[_Body]) -> _Body:
    """Raises InvalidRequest naming the first member that is wrong."""
    text = await request.read() or b"{}"
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        told = f"{field}: {first['msg']}" if field else f"the body: {first['msg']}"
        raise InvalidRequest(told, field=field or None) from error


def answer(content: BaseModel, status: int = 200) -> web.Response:
    return web.Response(
        text=content.model_dump_json(), content_type="application/json", status=status
    )
