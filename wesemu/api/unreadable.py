"""Answers to requests that cannot be read, in the words of the API that they were meant for."""

import re
from collections.abc import Sequence

from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from wesemu.api.dialect import REQUEST_ID, Dialect
from wesemu.ids import IdSource

_LINE = re.compile(rb"([A-Z]{1,20}) (\S+)")
_LONGEST = 8190
_NAME = re.compile(r"[A-Za-z0-9-]{1,64}")
_TOO_LONG = "Got more than"


class UnreadableRequests:
    """Has the dialects answer. A request line that is too long is a 414, headers that are too
    large are a 431, and everything else is a 400."""

    def __init__(self, dialects: Sequence[Dialect], ids: IdSource) -> None:
        self._dialects = dialects
        self._ids = ids

    def __call__(self, request: web.BaseRequest, head: bytes, why: str) -> web.Response:
        """`head` is how the request began, `why` what aiohttp's parser says of it."""
        meant = _meant(request, head)
        meant[REQUEST_ID] = request_id = self._ids.request_id()
        dialect = next((d for d in self._dialects if d.owns(meant)), self._dialects[-1])
        response = dialect.render_error(_error(head, why), meant)
        response.headers.update(dialect.headers(request_id))
        return response


def _error(head: bytes, why: str) -> web.HTTPException:
    if why.lstrip().startswith(_TOO_LONG) or "too many headers" in why.casefold():
        if b"\r\n" not in head:
            return web.HTTPRequestURITooLong(
                reason=f"the request line is longer than {_LONGEST} bytes"
            )
        return web.HTTPRequestHeaderFieldsTooLarge(
            reason=f"a header is longer than {_LONGEST} bytes, or there are more than 128"
        )
    return web.HTTPBadRequest(reason="this is not an HTTP request that can be read")


def _meant(request: web.BaseRequest, head: bytes) -> web.Request:
    """The request as far as its beginning tells: method, path and some headers."""
    line, *rest = head.split(b"\r\n")
    found = _LINE.match(line)
    method, target = (found[1].decode(), found[2].decode("latin-1")) if found else ("GET", "/")
    headers: CIMultiDict[str] = CIMultiDict()
    for text in rest:
        name, colon, value = text.decode("latin-1").partition(":")
        if colon and _NAME.fullmatch(name) and value.strip().isprintable():
            headers[name] = value.strip()
    path = target if target.startswith("/") else "/"
    try:
        url = URL(path, encoded=True)
    except ValueError:
        url = URL("/")
    meant = request.clone(method=method, rel_url=url, headers=headers)
    assert isinstance(meant, web.Request)
    return meant
