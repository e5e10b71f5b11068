"""HTTP requests to one server: JSON, downloads, and `ClientError` for every failure."""

import asyncio
import errno
import json
import re
import secrets
import stat
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from html import unescape
from http.client import responses
from pathlib import Path
from typing import BinaryIO, TypeVar
from urllib.parse import quote

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from yarl import URL

from wesemu import __version__
from wesemu.errors import InvalidRequest, WesemuError
from wesemu.runs.model import JsonObject
from wesemu.runs.run_directory import create_target, replaceable, safe_name
from wesemu.util.cancellation import close, open_in_thread
from wesemu.util.text import is_host, name_full_disk, network_reason

T = TypeVar("T")


class ClientError(WesemuError):
    """The server refused the request, or no server answered.

    `status` is the HTTP status, None without a response. `code` is the error code of AGS.
    """

    def __init__(self, message: str, *, status: int | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


# --- values of JSON objects, with defaults for missing keys ---


def text(values: JsonObject, key: str) -> str:
    """Return the value as text, "" if there is none."""
    value = values.get(key)
    return "" if value is None else str(value)


def number(values: JsonObject, key: str) -> int:
    """Return an integer, which the server may send as text; 0 if there is none.

    Raises ClientError for anything else.
    """
    return converted(values, key, int)


def converted(values: JsonObject, key: str, convert: Callable[[str], T]) -> T:
    """Return the value as `convert` reads its text; "0" if there is none.

    Raises ClientError if it cannot, as the answer of another server than wesemu.
    """
    value = text(values, key)
    try:
        return convert(value or "0")
    except (ValueError, RecursionError) as error:
        raise ClientError(
            f"the server answers {key} = {value[:80]!r}, which is not possible; "
            "is it a wesemu server?"
        ) from error


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


# --- paths ---


def path_part(name: str) -> str:
    """Return a name as one part of a path. Raise InvalidRequest for a name with which the path
    would lead elsewhere."""
    if name in ("", ".", ".."):
        raise InvalidRequest(f"{name!r} is not a name")
    return quote(name, safe="")


# --- files as bodies of requests ---

_CHUNK = 1 << 20


class FilePayload(aiohttp.Payload):
    """A file of `size` bytes, which the request announces.

    It is open only while it is sent: a process may have 256 open files.
    """

    def __init__(self, path: Path, size: int) -> None:
        super().__init__(path, content_type="application/octet-stream")
        self._path = path
        self._size: int = size

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        raise TypeError("a file that is sent is not decoded")

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Raise OSError with the file's name, also if the file is shorter now."""
        left = self._size
        async for chunk in _chunks(self._path):
            await writer.write(chunk[:left])  # a log may have grown
            left = max(0, left - len(chunk))
        if left:
            raise OSError(errno.EIO, "the file became shorter while it was sent", str(self._path))


async def payload_of(path: Path) -> FilePayload | AsyncIterator[bytes]:
    """Return the content of a file for a request. Raise OSError if it cannot be opened."""
    size = await asyncio.to_thread(_size_of, path)
    return _chunks(path) if size is None else FilePayload(path, size)


def _size_of(path: Path) -> int | None:
    """Return the size of a file; None if it is unknown, as of pipes and files in /proc."""
    status = path.stat()
    if stat.S_ISFIFO(status.st_mode):  # a pipe can be opened only once
        return None
    with path.open("rb") as file:
        if not stat.S_ISREG(status.st_mode):
            return None
        return status.st_size if status.st_size or not _read(file, 1) else None


async def _chunks(path: Path) -> AsyncIterator[bytes]:
    """Yield the content of a file. Raises OSError with its name, also if reading fails."""
    file = await open_in_thread(close, path.open, "rb")
    with file:
        while chunk := await asyncio.to_thread(_read, file, _CHUNK):
            yield chunk


def _read(file: BinaryIO, size: int) -> bytes:
    try:
        return file.read(size)
    except OSError as error:
        error.filename = file.name
        raise


# --- requests ---

_QUICK = aiohttp.ClientTimeout(total=30, sock_connect=5)
_NO_TOTAL = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=60)
_SLOW = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=3600)
"""For responses that the server prepares: a plan, a snapshot of all buckets, a crate."""

_XML = re.compile("<(Code|Message)>([^<]*)</")
_PARTIAL, _RANGE_NOT_SATISFIABLE = 206, 416


class Transport:
    """Sends requests to paths of `server`: an http URL, HOST:PORT or unix:PATH.

    The URL has a path if a proxy in front of the server strips one. The path of an API is ignored:
    `http://HOST/ga4gh/wes/v1` is the server `http://HOST`.

    `token` is sent as a bearer token, to this server only. Between `open` and `close`, requests
    share connections. Otherwise each request opens its own connection: there is nothing to close.

    Raises ClientError for any other address, InvalidRequest for a token that no header can have.
    """

    def __init__(self, server: str, token: str | None = None) -> None:
        self.url = server_url(server)
        self._prefix = path_prefix(self.url)
        self._socket = socket_path(server)
        self._name = str(self.url.with_user(None)) if self._socket is None else server
        """The server as error messages name it, without a password."""
        if token and not token.isprintable():
            raise InvalidRequest(
                "the token holds a control character, such as the line end of a file; take it out"
            )
        if token and self.url.user is not None:
            raise InvalidRequest(
                f"the address of {self._name} holds a user, and a token is given; give only one"
            )
        self._headers = {"User-Agent": f"wesemu-client/{__version__}"}
        self._authorization = {"Authorization": f"Bearer {token}"} if token else {}
        self._kept: aiohttp.ClientSession | None = None

    def open(self) -> None:
        if self._kept is None:
            self._kept = self._new_session()

    async def close(self) -> None:
        kept, self._kept = self._kept, None
        if kept is not None:
            await kept.close()

    async def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: JsonObject | None = None,
        form: aiohttp.FormData | None = None,
        file: Path | None = None,
        slow: bool = False,
    ) -> JsonObject:
        """Return the JSON object of the response, {} for an empty body.

        The request has a JSON `body`, a `form`, the content of a `file`, or none of them. A form, a
        file and `slow` give the server up to an hour to respond.
        """
        data = form if file is None else await payload_of(file)
        timeout = _SLOW if slow or data is not None else _QUICK
        async with self._request(
            method, path, query=query, body=body, data=data, timeout=timeout
        ) as response:
            text = await response.text(errors="replace")
        if not text.strip():
            return {}
        answer = _parse(text)
        if answer is None:
            raise ClientError(
                f"{self._name} answered {method} {path} with something that is not a JSON object; "
                "is it a wesemu server?",
                status=response.status,
            )
        return answer

    async def send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        data: bytes | Path | None = None,
    ) -> bytes:
        """Send bytes or the content of a file. Return the body of the response."""
        content = await payload_of(data) if isinstance(data, Path) else data
        async with self._request(
            method, path, query=query, data=content, timeout=_NO_TOTAL
        ) as response:
            return await response.read()

    async def download(
        self, url: str, target: Path | str, name: str, *, method: str = "GET", slow: bool = False
    ) -> Path:
        """Write the response body of `url` to the file `target`. `slow` is as in `call`.

        If `target` is a folder, the file gets the last part of `name`. A text that ends with "/" is
        a folder, which is created if it is missing. The file appears when it is complete. Return
        its path. Raise InvalidRequest if that part is not a file name, the folder does not exist,
        or `target` is a device, a pipe or a socket.
        """
        target = await asyncio.to_thread(create_target, target)
        if await asyncio.to_thread(target.is_dir):
            target /= safe_name(name.rstrip("/").rpartition("/")[2])
        if not await asyncio.to_thread(target.parent.is_dir):
            raise InvalidRequest(f"the folder {target.parent} does not exist; create it first")
        target = await asyncio.to_thread(replaceable, target)
        # a name of its own: other downloads may write the same target
        temporary = target.with_name(f".wesemu-{secrets.token_hex(8)}.part")
        try:
            file = await open_in_thread(close, temporary.open, "xb")
            with name_full_disk(target), file:
                async for chunk in self.chunks(url, method=method, slow=slow):
                    await asyncio.to_thread(file.write, chunk)
            await asyncio.to_thread(temporary.replace, target)
        finally:
            await asyncio.to_thread(temporary.unlink, missing_ok=True)
        return target

    async def chunks(
        self, url: str, *, start: int = 0, method: str = "GET", slow: bool = False
    ) -> AsyncIterator[bytes]:
        """Yield the response body of `url` from byte `start` on.

        `url` is a path or an absolute URL; one of another server gets no token.
        """
        headers = {"Range": f"bytes={start}-"} if start else {}
        try:
            timeout = _SLOW if slow else _NO_TOTAL
            async with self._request(method, url, headers=headers, timeout=timeout) as response:
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
        data: aiohttp.FormData | FilePayload | AsyncIterator[bytes] | bytes | None = None,
        timeout: aiohttp.ClientTimeout = _QUICK,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        url = self._absolute(path)
        if query:
            url = url.with_query(query)
        # an answer may name any URL, and the credentials are for this server only
        sent = dict(headers or {})
        is_own = url.origin() == self.url.origin()
        if is_own:
            sent |= self._authorization
            if self.url.user is not None:
                url = url.with_user(self.url.user).with_password(self.url.password)
        try:
            async with (
                self._session() as session,
                session.request(
                    method, url, headers=sent, data=data, json=body, timeout=timeout
                ) as response,
            ):
                if not response.ok:
                    raise _error_of(response.status, await response.text(errors="replace"), url)
                yield response
        except aiohttp.ClientConnectorError as error:
            name = self._name
            if not is_own:
                name = f"{url.origin()}, to which an answer of {self._name} leads"
            raise ClientError(_connect_message(error, name)) from error
        except UnicodeError as error:  # of getaddrinfo
            raise ClientError(f"{self._name} redirects to an address that cannot be one") from error
        except (aiohttp.ClientError, TimeoutError) as error:
            cause = error.__cause__
            if isinstance(cause, OSError) and cause.filename is not None:  # of _chunks
                raise cause from None
            raise ClientError(
                f"the connection to {self._name} failed: {network_reason(error)}"
            ) from error

    def _absolute(self, path: str) -> URL:
        """Return the URL of a path, or of an URL in an answer. Raise ClientError if it has none."""
        try:
            url = URL(self._prefix + path if path.startswith("/") else path)
            if path.startswith("/") or (url.scheme in ("http", "https") and url.host):
                return self.url.join(url)
        except ValueError:
            pass
        raise ClientError(
            f"an answer of {self._name} names the address {path[:200]!r}, which is no http URL"
        )

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[aiohttp.ClientSession]:
        """Yield the open session, or one for a single request."""
        if self._kept is not None:
            yield self._kept
            return
        async with self._new_session() as session:
            yield session

    def _new_session(self) -> aiohttp.ClientSession:
        connector = aiohttp.UnixConnector(self._socket) if self._socket is not None else None
        return aiohttp.ClientSession(headers=self._headers, connector=connector)


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
    if server.startswith("unix:"):
        raise ClientError(f"{server!r} names no socket; write unix:PATH")
    try:
        url = URL(server if "://" in server else f"http://{server}")
    except ValueError:
        url = URL()
    if url.scheme not in ("http", "https") or not url.host or not is_host(url.host):
        raise ClientError(f"{server!r} is not the address of a server; write http://HOST:PORT")
    return url


def _connect_message(error: aiohttp.ClientConnectorError, name: str) -> str:
    """Return why there is no connection to the server `name`, and what to do."""
    match error:
        case aiohttp.ClientConnectorCertificateError(certificate_error=reason):
            detail = getattr(reason, "verify_message", "") or str(reason)
            return (
                f"the certificate of {name} is not valid: {detail}; if it is of an authority of "
                "your own, set SSL_CERT_FILE to the authority's certificate"
            )
        case aiohttp.ClientSSLError():
            return f"there is no secure connection to {name}; write http:// if it speaks no TLS"
        case _:
            return (
                f"no server answers at {name}; start one with 'wesemu serve', or name another "
                "with --server or WESEMU_SERVER"
            )


_API_PATH = re.compile(r"(/\d+\.\d+\.\d+)?/(ga4gh|gs|oss|ui|_wesemu)(/.*)?", re.DOTALL)


def path_prefix(url: URL) -> str:
    """Return the path of a server's URL, "" for none, without a trailing slash and without the path
    of an API."""
    path = url.raw_path.rstrip("/")
    return path[: found.start()] if (found := _API_PATH.search(path)) else path


def _error_of(status: int, text: str, url: URL) -> ClientError:
    """Build the error of a response.

    WES sends `msg`, AGS `Message` and `Code`, the control API `error`, or `reasons` why it is not
    ready, OSS the XML elements `Message` and `Code`. A message that only repeats the status, as
    that of an injected fault, gets the address.
    """
    payload: JsonObject | dict[str, str] | None = _parse(text)
    if not payload:
        payload = {name: unescape(value) for name, value in _XML.findall(text)}
    message = payload.get("Message") or payload.get("msg") or payload.get("error")
    if isinstance(reasons := payload.get("reasons"), list) and reasons:
        message = f"not ready: {'; '.join(map(str, reasons))}"
    if not message or message == responses.get(status):
        reason = f" ({message})" if message else ""
        message = f"{url} answered with HTTP status {status}{reason}"
    code = payload.get("Code")
    return ClientError(
        str(message),
        status=status,
        code=None if code is None else str(code),
    )


def _parse(text: str) -> JsonObject | None:
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return answer if isinstance(answer, dict) else None
