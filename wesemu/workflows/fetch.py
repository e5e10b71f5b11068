"""Workflows by URL: fetched once, at submission, into the run's attachments.

The parts of this module are `WorkflowWeb`, which gets files from allowed hosts; TRS addresses; and
`RemoteWorkflows`, which attaches a workflow to a request.
"""

import asyncio
import hashlib
import json
import posixpath
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, unquote, urlsplit

import aiohttp
from yarl import URL

from wesemu import __version__
from wesemu.errors import InvalidRequest
from wesemu.provenance.redaction import redact_urls
from wesemu.runs.model import FetchedFile, RunRequest
from wesemu.runs.run_directory import RunDirectoryDraft, read_regular
from wesemu.util.ssrf import (
    MAX_REDIRECTS,
    REDIRECT_STATUSES,
    AddressGuard,
    AddressRefused,
    GuardedResolver,
)
from wesemu.util.text import json_reason, network_reason

_TIMEOUT_SECONDS = 20.0
_MEBIBYTE = 1 << 20


class FileMissing(InvalidRequest):
    """The web server has no such file."""


class WorkflowWeb:
    """Gets files from addresses that `guard` allows.

    Host names must match one of the patterns `hosts` (`*` matches any letters). The session is
    opened when it is first needed.
    """

    def __init__(self, guard: AddressGuard, hosts: Sequence[str] = ("*",)) -> None:
        self._guard = guard
        self._hosts = [host.casefold() for host in hosts]
        self._session: aiohttp.ClientSession | None = None

    async def get(self, url: str, limit: int, accept: str = "*/*") -> tuple[bytes, str]:
        """Return the content, at most `limit` bytes, and its media type.

        Raise InvalidRequest with the field workflow_url; FileMissing for a 404.
        """
        try:
            return await self._get(url, limit, accept)
        except AddressRefused as error:
            raise _fetch_error(url, str(error)) from error
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            if isinstance(error.__cause__, AddressRefused):
                raise _fetch_error(url, str(error.__cause__)) from error
            raise _fetch_error(url, f"it cannot be fetched: {network_reason(error)}") from error

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _get(self, url: str, limit: int, accept: str) -> tuple[bytes, str]:
        """Follow redirects here, since each address has to be allowed."""
        current = url
        for _ in range(MAX_REDIRECTS + 1):
            self._check(current)
            async with self._open_session().get(
                current, allow_redirects=False, headers={"Accept": accept}
            ) as response:
                if response.status not in REDIRECT_STATUSES:
                    return await _content(response, url, limit), response.content_type
                target = response.headers.get("Location", "")
            next_url = URL(current).join(URL(target))
            if URL(current).scheme == "https" and next_url.scheme != "https":
                raise AddressRefused("it is redirected from https to another scheme")
            current = str(next_url)
        raise AddressRefused(f"it is redirected more than {MAX_REDIRECTS} times")

    def _check(self, url: str) -> None:
        self._guard.check(url)
        host = (URL(url).host or "").casefold()
        if not any(fnmatchcase(host, pattern) for pattern in self._hosts):
            raise AddressRefused(
                f"this server fetches no workflows from {host}; the setting workflows.hosts can "
                "allow it"
            )

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(resolver=GuardedResolver(self._guard)),
                timeout=aiohttp.ClientTimeout(total=_TIMEOUT_SECONDS),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": f"wesemu/{__version__}"},
            )
        return self._session


async def _content(response: aiohttp.ClientResponse, url: str, limit: int) -> bytes:
    if response.status in (404, 410):
        raise FileMissing(f"there is no {redacted_url(url)}", field="workflow_url")
    if response.status != 200:
        raise _fetch_error(url, f"the web server answered {response.status}")
    content = bytearray()
    async for chunk in response.content.iter_any():
        content += chunk
        if len(content) > limit:
            raise _fetch_error(
                url, f"it is larger than {limit / _MEBIBYTE:.0f} MiB, too large for a workflow"
            )
    return bytes(content)


def _fetch_error(url: str, why: str) -> InvalidRequest:
    return _url_error(f"{redacted_url(url)}: {redact_urls(why)}")


def redacted_url(url: str) -> str:
    """Return the URL in quotes, at most 200 characters, without credentials."""
    url = redact_urls(url)
    return repr(url if len(url) <= 200 else f"{url[:200]}…")


# Workflows by TRS address (GA4GH Tool Registry Service 2.0).

NAMES = {"SMK": "Snakefile", "CWL": "workflow.cwl", "WDL": "workflow.wdl"}
"""File names of descriptors from registries that do not state one."""

_BASE = "/ga4gh/trs/v2"
_TRS_URI = re.compile(
    r"trs://(?P<host>[^/]+)/(?:tools/(?P<tool>.+)/versions/(?P<version>[^/]+)"
    r"(?:/(?P<kind>[A-Za-z_-]+)(?:/descriptor(?:/(?P<path>.+))?)?)?/?"
    r"|(?P<bare_tool>[^/]+)/(?P<bare_version>[^/]+)/?)"
)
_TRS_URL = re.compile(
    r"(?P<base>https?://[^/]+/(?:.+/)?ga4gh/(?:trs/)?v\d[^/]*)/tools/(?P<tool>[^/]+)/versions/(?P<version>[^/]+)"
    r"/(?P<kind>[A-Za-z_-]+)/descriptor(?:/(?P<path>.+))?"
)
_WANTED = frozenset({"PRIMARY_DESCRIPTOR", "SECONDARY_DESCRIPTOR", "OTHER"})
_MAX_FILES = 200


class Web(Protocol):
    async def get(self, url: str, limit: int, accept: str = "*/*") -> tuple[bytes, str]: ...


@dataclass(frozen=True, slots=True)
class TrsAddress:
    """Address of a workflow version in a registry.

    `base` is the URL of the registry's API; `tool` and `version` are decoded ids; `kind` is SMK,
    CWL, WDL or "" if not given; `path` names a descriptor other than the primary one.
    """

    base: str
    tool: str
    version: str
    kind: str = ""
    path: str = ""

    def endpoint(self, kind: str, *below: str) -> str:
        ids = (quote(one, safe="") for one in (self.tool, self.version, kind, *below))
        tool, version, *rest = ids
        return f"{self.base}/tools/{tool}/versions/{version}/{'/'.join(rest)}"


@dataclass
class FetchedWorkflow:
    """A fetched workflow: contents by name in the run, sources by name; `main` is the workflow."""

    main: str
    files: dict[str, bytes] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)


def read_address(url: str) -> TrsAddress | None:
    """Parse a registry address; return None for other URLs.

    Addresses are `trs://HOST/tools/ID/versions/VERSION[/TYPE[/descriptor/PATH]]`,
    `trs://HOST/ID/VERSION` (TRS 2.0.1, "TRS URI"), or the URL of a descriptor.
    """
    if (match := _TRS_URI.fullmatch(url)) is not None:
        host, tool, version = match["host"], match["tool"], match["version"]
        return TrsAddress(
            f"{_scheme(host)}://{host}{_BASE}",
            unquote(tool or match["bare_tool"]),
            unquote(version or match["bare_version"]),
            _kind(match["kind"] or ""),
            unquote(match["path"] or ""),
        )
    if (match := _TRS_URL.fullmatch(url.partition("?")[0])) is not None:
        return TrsAddress(
            match["base"],
            unquote(match["tool"]),
            unquote(match["version"]),
            _kind(match["kind"]),
            unquote(match["path"] or ""),
        )
    return None


async def fetch(web: Web, address: TrsAddress, kind: str, limit: int) -> FetchedWorkflow:
    """Fetch all files of a version, at most `limit` bytes together. Raise InvalidRequest."""
    if address.kind not in ("", kind):
        raise _url_error(f"it is of a {address.kind} workflow; workflow_type says {kind}")
    listed = await _list_files(web, address, kind, limit)
    primary = next((path for path, tool_file in listed.items() if _is_primary(tool_file)), "")
    main = address.path or primary
    if not main:
        return await _only_descriptor(web, address, kind, limit)
    listed.setdefault(main, {"file_type": "PRIMARY_DESCRIPTOR"})
    names = _local_names(list(listed))
    fetched = FetchedWorkflow(names[main])
    for path, tool_file in listed.items():
        source = address.endpoint(kind, "descriptor", path)
        try:
            content = await _file(web, source, limit, tool_file)
        except FileMissing:
            if tool_file.get("file_type") != "OTHER":
                raise
            continue  # some registries list files that they do not serve
        limit -= len(content)
        fetched.files[names[path]] = content
        fetched.sources[names[path]] = source
    return fetched


async def _list_files(
    web: Web, address: TrsAddress, kind: str, limit: int
) -> dict[str, Mapping[str, Any]]:
    """Return ToolFile by path; empty if the registry lists no files."""
    try:
        content, _ = await web.get(address.endpoint(kind, "files"), limit, "application/json")
    except FileMissing:
        return {}
    listing = _json(content)
    files = [one for one in listing if isinstance(one, dict)] if isinstance(listing, list) else []
    if len(files) > _MAX_FILES:
        raise _url_error(f"it has {len(files)} files; at most {_MAX_FILES} are fetched")
    return {
        str(one["path"]): one
        for one in files
        if one.get("path") and one.get("file_type") in _WANTED
    }


async def _only_descriptor(web: Web, address: TrsAddress, kind: str, limit: int) -> FetchedWorkflow:
    source = address.endpoint(kind, "descriptor")
    name = NAMES.get(kind, "workflow")
    content = await _file(web, source, limit, {})
    return FetchedWorkflow(name, {name: content}, {name: source})


async def _file(web: Web, source: str, limit: int, tool_file: Mapping[str, Any]) -> bytes:
    """Fetch the content of a FileWrapper, or of the URL that it names."""
    body, _ = await web.get(source, limit, "application/json")
    wrapper = _json(body)
    if not isinstance(wrapper, dict):
        raise _url_error(f"it leads to something that is not a TRS descriptor: {source[:200]}")
    if isinstance(text := wrapper.get("content"), str):
        content = text.encode()
    elif isinstance(content_url := wrapper.get("url"), str):
        content, _ = await web.get(content_url, limit)
    else:
        raise _url_error(f"it leads to a descriptor without content: {source[:200]}")
    for checksum in (tool_file.get("checksum"), *(wrapper.get("checksum") or ())):
        _check_digest(content, checksum, source)
    return content


def _check_digest(content: bytes, checksum: Any, source: str) -> None:
    if not isinstance(checksum, dict):
        return
    kind = str(checksum.get("type", "")).lower().replace("-", "")
    expected = str(checksum.get("checksum", "")).lower()
    if kind == "sha256" and hashlib.sha256(content).hexdigest() != expected:
        raise _url_error(f"it leads to {source[:200]}, which is not what its checksum says")


def _local_names(paths: list[str]) -> dict[str, str]:
    """Return local names that keep the relative positions of the paths.

    For `../lib/a.wdl` the others move into a subfolder.
    """
    normal = {path: posixpath.normpath(path.lstrip("/")) for path in paths}
    deepest = max(path.split("/").count("..") for path in normal.values())
    above = "/".join(["trs"] * deepest)
    return {path: posixpath.normpath(posixpath.join(above, own)) for path, own in normal.items()}


def _is_primary(tool_file: Mapping[str, Any]) -> bool:
    return tool_file.get("file_type") == "PRIMARY_DESCRIPTOR"


def _kind(name: str) -> str:
    return name.upper().replace("-", "_").removeprefix("PLAIN_")


def _scheme(host: str) -> str:
    """Return https, or http for this machine, which rarely has a certificate."""
    name = URL(f"https://{host}").host or ""
    try:
        return "http" if ip_address(name).is_loopback else "https"
    except ValueError:
        return "http" if name == "localhost" else "https"


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError as error:
        raise _url_error(
            f"it leads to a registry whose response is {json_reason(error)}"
        ) from error


def _url_error(message: str) -> InvalidRequest:
    return InvalidRequest(message, field="workflow_url")


# Workflows by URL.

LIMIT = 32 << 20
SECONDS = 60.0
_SCHEMES = ("http://", "https://", "trs://")
_BLOB = re.compile(r"https?://(?:www\.)?github\.com/([^/]+/[^/]+)/(?:blob|tree)/(.+)")
_OTHER_BLOB = re.compile(r"(https?://.+?/-/)(?:blob|tree)(/.+)")


class RemoteWorkflows:
    """Fetches at most `LIMIT` bytes within `seconds`, from `web` if given and below `folders`."""

    def __init__(
        self, web: WorkflowWeb | None, folders: Sequence[Path] = (), *, seconds: float = SECONDS
    ) -> None:
        self._web = web
        self._folders = folders
        self._seconds = seconds

    def can_fetch(self, url: str) -> bool:
        """Return True if the settings allow to fetch a workflow from this kind of URL."""
        if is_file(url):
            return bool(self._folders)
        return self._web is not None and is_remote(url)

    async def fetch_workflow(
        self, request: RunRequest, kind: str, files: RunDirectoryDraft
    ) -> RunRequest:
        """Attach the workflow to `files` and return the request with its sources.

        `kind` is SMK, CWL or WDL. Raise InvalidRequest.
        """
        try:
            async with asyncio.timeout(self._seconds):
                fetched = await self._fetch(request.workflow_url, kind)
        except TimeoutError as error:
            raise _url_error(
                f"{redacted_url(request.workflow_url)} was not fetched within {self._seconds:.0f} s"
            ) from error
        except (TypeError, ValueError, RecursionError) as error:  # an odd address or response
            why = redact_urls(str(error))
            raise _url_error(
                f"{redacted_url(request.workflow_url)} cannot be understood: {why}; correct the "
                "address, or have its registry follow TRS 2.0"
            ) from error
        sources = []
        for name, content in fetched.files.items():
            await _attach(files, name, content)
            digest = hashlib.sha256(content).hexdigest()
            sources.append(FetchedFile(name, fetched.sources[name], len(content), digest))
        return replace(request, workflow_file=fetched.main, workflow_sources=tuple(sources))

    async def close(self) -> None:
        if self._web is not None:
            await self._web.close()

    async def _fetch(self, url: str, kind: str) -> FetchedWorkflow:
        if self._web is None or is_file(url):
            fetched = await asyncio.to_thread(self._read, url)
        elif (address := read_address(url)) is not None:
            fetched = await fetch(self._web, address, kind, LIMIT)
        else:
            _reject_web_pages(url)
            content, media_type = await self._web.get(url, LIMIT)
            if media_type in ("text/html", "application/xhtml+xml"):
                raise _url_error(
                    f"{redacted_url(url)} is a web page; give the address of the file itself"
                )
            name = unquote(urlsplit(url).path).rpartition("/")[2] or NAMES.get(kind, "workflow")
            fetched = FetchedWorkflow(name, {name: content}, {name: url})
        _check_text(fetched.files[fetched.main], url)
        return fetched

    def _read(self, url: str) -> FetchedWorkflow:
        """Read a file below one of the folders, with all links resolved.

        The error does not reveal whether other files exist.
        """
        parts = urlsplit(url)
        path = Path(unquote(parts.path))
        try:
            real = path.resolve(strict=True)
            if parts.netloc in ("", "localhost") and self._contains(real):
                content = read_regular(real, 0, LIMIT + 1)
                if len(content) <= LIMIT:
                    return FetchedWorkflow(path.name, {path.name: content}, {path.name: url})
        except (OSError, RuntimeError, ValueError):
            pass
        raise _url_error(
            f"{redacted_url(url)} is not a file of at most {LIMIT >> 20} MiB below the folders "
            "of the setting workflows.folders"
        )

    def _contains(self, real: Path) -> bool:
        return any(real.is_relative_to(folder.resolve()) for folder in self._folders)


def is_remote(url: str) -> bool:
    return url.lower().startswith(_SCHEMES)


def is_file(url: str) -> bool:
    return url.lower().startswith("file:")


def _reject_web_pages(url: str) -> None:
    """Raise InvalidRequest for the address of a web page about a file."""
    if url.lower().startswith("trs://"):
        raise _url_error(
            f"{redacted_url(url)} is not understood; write trs://HOST/tools/ID/versions/VERSION, "
            "the ID with %2F for its slashes"
        )
    raw = None
    if (match := _BLOB.fullmatch(url)) is not None:
        raw = f"https://raw.githubusercontent.com/{match[1]}/{match[2]}"
    elif (match := _OTHER_BLOB.fullmatch(url)) is not None:
        raw = f"{match[1]}raw{match[2]}"
    if raw is not None:
        raw = redact_urls(raw)
        raise _url_error(
            f"{redacted_url(url)} is a page about the file; the file itself is at {raw}"
        )


def _check_text(content: bytes, url: str) -> None:
    try:
        text = content.decode()
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text or not text.strip():
        raise _url_error(
            f"{redacted_url(url)} leads to a file that is not text; a workflow is a text file"
        )


async def _attach(files: RunDirectoryDraft, name: str, content: bytes) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield content

    try:
        await files.attach(name, chunks())
    except InvalidRequest as error:
        raise _url_error(f"it leads to a file that cannot be kept: {error.message}") from error
