"""HTTP requests to one server: JSON, downloads, and `ClientError` for every failure."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import aiohttp
from yarl import URL

from wesemu.errors import WesemuError
from wesemu.runs.model import JsonObject
from wesemu.util.text import network_reason

# --- values of JSON objects, with defaults for missing keys ---


def text(values: JsonObject, key: str) -> str:
    """Return the value as text, "" if there is none."""
    value = values.get(key)
    return "" if value is None else str(value)


def number(values: JsonObject, key: str) -> int:
    """Return an integer, which the server may send as text; 0 if there is none."""
    return int(text(values, key) or 0)


def optional_text(values: JsonObject, key: str) -> str | None:
    """Return the value as text, None if there is none."""
    return text(values, key) or None


def nested(values: JsonObject, key: str) -> JsonObject:
    """Return the object under `key`, {} if there is none."""
    value = values.get(key)
    return value if isinstance(value, dict) else {}


def nested_list(values: JsonObject, key: str) -> list[JsonObject]:
    """Return the objects in the list under `key`, [] if there is none."""
    value = values.get(key)
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def text_values(values: JsonObject, key: str) -> dict[str, str]:
    """Return the object under `key` with its values as text."""
    return {name: str(value) for name, value in nested(values, key).items()}


# --- requests ---

QUICK = aiohttp.ClientTimeout(total=30, sock_connect=5)
_NO_TOTAL = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=60)
_CHUNK = 1 << 20
_PARTIAL, _RANGE_NOT_SATISFIABLE = 206, 416


class ClientError(WesemuError):
    """The server refused the request, or no server answered.

    `status` is the HTTP status, None without a response. `code` is the error code of AGS.
    """

    def __init__(self, message: str, *, status: int | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class Transport:
    """Sends requests to paths below `url`."""

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
        """Return the JSON object of the response, {} for an empty body."""
        timeout = QUICK if form is None else _NO_TOTAL
        async with self._request(
            method, path, query=query, body=body, form=form, timeout=timeout
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
        """Yield the response body of `url` from byte `start` on.

        `url` is a path or an absolute URL of this server.
        """
        headers = {"Range": f"bytes={start}-"} if start else {}
        try:
            async with self._request("GET", url, headers=headers, timeout=_NO_TOTAL) as response:
                # a server that ignores Range sends everything: skip what the caller has
                skip = 0 if response.status == _PARTIAL else start
                async for chunk in response.content.iter_chunked(_CHUNK):
                    if len(chunk) > skip:
                        yield chunk[skip:]
                    skip = max(0, skip - len(chunk))
        except ClientError as error:
            # 416: a growing log has no new bytes yet
            if error.status != _RANGE_NOT_SATISFIABLE or not start:
                raise

    @asynccontextmanager
    async def _request(
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
                    raise _error_of(response.status, await response.text(errors="replace"), url)
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
    """Return the path of an address of the form `unix:PATH`, None for other addresses."""
    scheme, colon, path = server.partition(":")
    return path.removeprefix("//") if colon and scheme == "unix" and path else None


def server_url(server: str) -> URL:
    """Return the URL of a server from an URL, HOST:PORT or unix:PATH.

    Raise ClientError for anything else.
    """
    if socket_path(server) is not None:
        return URL("http://localhost")
    try:
        url = URL(server if "://" in server else f"http://{server}")
    except ValueError:
        url = URL()
    if url.scheme not in ("http", "https") or not url.host:
        raise ClientError(f"{server!r} is not the address of a server; write http://HOST:PORT")
    return url


def _error_of(status: int, text: str, url: URL) -> ClientError:
    """Build the error of a response: WES sends `msg`, AGS `Message` and `Code`, control `error`."""
    payload = _parse(text) or {}
    message = payload.get("Message") or payload.get("msg") or payload.get("error")
    code = payload.get("Code")
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
