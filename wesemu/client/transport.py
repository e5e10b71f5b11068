"""Requests to one server, and the one place that makes errors of answers."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import aiohttp
from yarl import URL

from wesemu.errors import WesemuError
from wesemu.runs.model import JsonObject
from wesemu.util.text import network_reason

# Values out of JSON objects that may lack them.


def text(values: JsonObject, key: str) -> str:
    """The value as text, "" where there is none."""
    value = values.get(key)
    return "" if value is None else str(value)


def number(values: JsonObject, key: str) -> int:
    """A whole number, sent as one or as text; 0 where there is none."""
    return int(text(values, key) or 0)


def some(values: JsonObject, key: str) -> str | None:
    """The value as text, None where there is none."""
    return text(values, key) or None


def inner(values: JsonObject, key: str) -> JsonObject:
    """The object under `key`, {} where there is none."""
    value = values.get(key)
    return value if isinstance(value, dict) else {}


def several(values: JsonObject, key: str) -> list[JsonObject]:
    """The objects in the list under `key`, [] where there is none."""
    value = values.get(key)
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def texts(values: JsonObject, key: str) -> dict[str, str]:
    """The object under `key` with its values as text."""
    return {name: str(value) for name, value in inner(values, key).items()}


QUICK = aiohttp.ClientTimeout(total=30, sock_connect=5)
_UNHURRIED = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=60)
_CHUNK = 1 << 20
_PARTIAL, _NOTHING_THERE_YET = 206, 416


class ClientError(WesemuError):
    """The server refused, or none answered.

    `status` is the HTTP status, None where no answer came; `code` is AGS's error code.
    """

    def __init__(self, message: str, *, status: int | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class Transport:
    """Sends requests below `url` over `session`."""

    def __init__(self, session: aiohttp.ClientSession, url: URL) -> None:
        self._session = session
        self._url = url

    async def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: JsonObject | None = None,
        form: aiohttp.FormData | None = None,
    ) -> JsonObject:
        """The answer's JSON object; an empty one for an empty body."""
        patience = QUICK if form is None else _UNHURRIED
        async with self._answer(
            method, path, query=query, body=body, form=form, timeout=patience
        ) as response:
            text = await response.text(errors="replace")
        if not text.strip():
            return {}
        answer = _parse(text)
        if answer is None:
            raise ClientError(
                f"{self._url} answered {method} {path} with something that is not a JSON object; "
                "is it a wesemu server?",
                status=response.status,
            )
        return answer

    async def chunks(self, url: str, *, start: int = 0) -> AsyncIterator[bytes]:
        """The bytes behind a path or an absolute URL of this server, from byte `start` on."""
        headers = {"Range": f"bytes={start}-"} if start else {}
        try:
            async with self._answer("GET", url, headers=headers, timeout=_UNHURRIED) as response:
                skip = 0 if response.status == _PARTIAL else start
                async for chunk in response.content.iter_chunked(_CHUNK):
                    if len(chunk) > skip:
                        yield chunk[skip:]
                    skip = max(0, skip - len(chunk))
        except ClientError as error:
            if error.status != _NOTHING_THERE_YET or not start:
                raise

    @asynccontextmanager
    async def _answer(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: JsonObject | None = None,
        form: aiohttp.FormData | None = None,
        timeout: aiohttp.ClientTimeout = QUICK,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        url = self._url.join(URL(path))
        if query:
            url = url.with_query(query)
        try:
            async with self._session.request(
                method, url, headers=headers, data=form, json=body, timeout=timeout
            ) as response:
                if not response.ok:
                    raise _refusal(response.status, await response.text(errors="replace"), url)
                yield response
        except aiohttp.ClientConnectorError as error:
            raise ClientError(
                f"no server answers at {self._url}; start one with 'wesemu serve', or name "
                "another with --server or WESEMU_SERVER"
            ) from error
        except (aiohttp.ClientError, TimeoutError) as error:
            raise ClientError(
                f"the connection to {self._url} failed: {network_reason(error)}"
            ) from error


def socket_path(server: str) -> str | None:
    """The path in an address of the form `unix:PATH`."""
    scheme, colon, path = server.partition(":")
    return path.removeprefix("//") if colon and scheme == "unix" and path else None


def server_url(server: str) -> URL:
    """Raises ClientError for what is not the address of a server; "HOST:PORT" is one."""
    if socket_path(server) is not None:
        return URL("http://localhost")
    try:
        url = URL(server if "://" in server else f"http://{server}")
    except ValueError:
        url = URL()
    if url.scheme not in ("http", "https") or not url.host:
        raise ClientError(f"{server!r} is not the address of a server; write http://HOST:PORT")
    return url


def _refusal(status: int, text: str, url: URL) -> ClientError:
    """WES says `msg`; AGS says `Message` and `Code`; the control API says `error`."""
    told = _parse(text) or {}
    message = told.get("Message") or told.get("msg") or told.get("error")
    code = told.get("Code")
    return ClientError(
        str(message or f"{url} answered with HTTP status {status}"),
        status=status,
        code=None if code is None else str(code),
    )


def _parse(text: str) -> JsonObject | None:
    try:
        answer = json.loads(text)
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None
