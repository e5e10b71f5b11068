"""Files of workflows from the web: small ones, from allowed places, within a time."""

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
from wesemu.runs.model import JsonValue, RunRequest
from wesemu.runs.run_directory import RunDirectoryDraft, read_regular
from wesemu.util.ssrf import AddressGuard, AddressRefused, GuardedResolver
from wesemu.util.text import json_reason, network_reason

_ANSWER_SECONDS = 20.0
_REDIRECTS = 5
_REDIRECTED = frozenset({301, 302, 303, 307, 308})
_MEBIBYTE = 1 << 20


class FileMissing(InvalidRequest):
    """A web server says that there is no such file."""


class WorkflowWeb:
    """Gets what `guard` lets through, from hosts whose names fit `hosts` (with `*` for any
    letters). The session is opened when it is first needed."""

    def __init__(self, guard: AddressGuard, hosts: Sequence[str] = ("*",)) -> None:
        self._guard = guard
        self._hosts = [host.casefold() for host in hosts]
        self._session: aiohttp.ClientSession | None = None

    async def get(self, url: str, limit: int, accept: str = "*/*") -> tuple[bytes, str]:
        """The content, of at most `limit` bytes, and its media type.

        Raises InvalidRequest, naming the field workflow_url; FileMissing for a 404.
        """
        try:
            return await self._get(url, limit, accept)
        except AddressRefused as error:
            raise _refusal(url, str(error)) from error
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            if isinstance(error.__cause__, AddressRefused):
                raise _refusal(url, str(error.__cause__)) from error
            raise _refusal(url, f"it cannot be fetched: {network_reason(error)}") from error

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _get(self, url: str, limit: int, accept: str) -> tuple[bytes, str]:
        """Redirects are followed here: each place has to be one that may be gone to."""
        place = url
        for _ in range(_REDIRECTS + 1):
            self._check(place)
            async with self._opened().get(
                place, allow_redirects=False, headers={"Accept": accept}
            ) as answer:
                if answer.status not in _REDIRECTED:
                    return await _content(answer, url, limit), answer.content_type
                leads = answer.headers.get("Location", "")
            goal = URL(place).join(URL(leads))
            if URL(place).scheme == "https" and goal.scheme != "https":
                raise AddressRefused("it is redirected from https to what is not")
            place = str(goal)
        raise AddressRefused(f"it is redirected more than {_REDIRECTS} times")

    def _check(self, url: str) -> None:
        self._guard.check(url)
        host = (URL(url).host or "").casefold()
        if not any(fnmatchcase(host, pattern) for pattern in self._hosts):
            raise AddressRefused(
                f"this server fetches no workflows from {host}; the setting workflows.hosts can "
                "allow it"
            )

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(resolver=GuardedResolver(self._guard)),
                timeout=aiohttp.ClientTimeout(total=_ANSWER_SECONDS),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": f"wesemu/{__version__}"},
            )
        return self._session


async def _content(answer: aiohttp.ClientResponse, url: str, limit: int) -> bytes:
    if answer.status in (404, 410):
        raise FileMissing(f"workflow_url: there is no {redacted_url(url)}", field="workflow_url")
    if answer.status != 200:
        raise _refusal(url, f"the web server answered {answer.status}")
    content = bytearray()
    async for chunk in answer.content.iter_any():
        content += chunk
        if len(content) > limit:
            raise _refusal(
                url, f"it is larger than {limit / _MEBIBYTE:.0f} MiB, too large for a workflow"
            )
    return bytes(content)


def _refusal(url: str, why: str) -> InvalidRequest:
    told = f"workflow_url {redacted_url(url)}: {redact_urls(why)}"
    return InvalidRequest(told, field="workflow_url")


def redacted_url(url: str) -> str:
    """In quotes, at most 200 letters, and without the credentials in it."""
    url = redact_urls(url)
    return repr(url if len(url) <= 200 else f"{url[:200]}…")


# GA4GH Tool Registry Service 2.0: a workflow by the address of one of its versions.


NAMES = {"SMK": "Snakefile", "CWL": "workflow.cwl", "WDL": "workflow.wdl"}
"""What a descriptor is called whose registry does not say."""

_BASE = "/ga4gh/trs/v2"
_SHORT = re.compile(
    r"trs://(?P<host>[^/]+)/(?:tools/(?P<tool>.+)/versions/(?P<version>[^/]+)"
    r"(?:/(?P<kind>[A-Za-z_-]+)(?:/descriptor(?:/(?P<path>.+))?)?)?/?"
    r"|(?P<bare_tool>[^/]+)/(?P<bare_version>[^/]+)/?)"
)
_LONG = re.compile(
    r"(?P<base>https?://[^/]+/(?:.+/)?ga4gh/(?:trs/)?v\d[^/]*)/tools/(?P<tool>[^/]+)/versions/(?P<version>[^/]+)"
    r"/(?P<kind>[A-Za-z_-]+)/descriptor(?:/(?P<path>.+))?"
)
_WANTED = frozenset({"PRIMARY_DESCRIPTOR", "SECONDARY_DESCRIPTOR", "OTHER"})
_FILES = 200


class Web(Protocol):
    async def get(self, url: str, limit: int, accept: str = "*/*") -> tuple[bytes, str]: ...


@dataclass(frozen=True, slots=True)
class TrsAddress:
    """`base` is the registry's API; `tool` and `version` are ids, decoded; `kind` is SMK, CWL, WDL
    or "" where the address does not say; `path` names a descriptor other than the primary one."""

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
    """`files` by their names in the run, `sources` where each came from; `main` is the workflow."""

    main: str
    files: dict[str, bytes] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)


def read_address(url: str) -> TrsAddress | None:
    """None for what is no address of a registry.

    `trs://HOST/tools/ID/versions/VERSION[/TYPE[/descriptor/PATH]]`, `trs://HOST/ID/VERSION`
    (TRS 2.0.1, "TRS URI"), or the address of a descriptor.
    """
    if (match := _SHORT.fullmatch(url)) is not None:
        host, tool, version = match["host"], match["tool"], match["version"]
        return TrsAddress(
            f"{_scheme(host)}://{host}{_BASE}",
            unquote(tool or match["bare_tool"]),
            unquote(version or match["bare_version"]),
            _kind(match["kind"] or ""),
            unquote(match["path"] or ""),
        )
    if (match := _LONG.fullmatch(url.partition("?")[0])) is not None:
        return TrsAddress(
            match["base"],
            unquote(match["tool"]),
            unquote(match["version"]),
            _kind(match["kind"]),
            unquote(match["path"] or ""),
        )
    return None


async def fetch(web: Web, address: TrsAddress, kind: str, limit: int) -> FetchedWorkflow:
    """All files of a version, of at most `limit` bytes together. Raises InvalidRequest."""
    if address.kind not in ("", kind):
        raise _wrong(f"is of a {address.kind} workflow; workflow_type says {kind}")
    listed = await _listed(web, address, kind, limit)
    primary = next((path for path, told in listed.items() if _is_primary(told)), "")
    main = address.path or primary
    if not main:
        return await _only_descriptor(web, address, kind, limit)
    listed.setdefault(main, {"file_type": "PRIMARY_DESCRIPTOR"})
    names = _names(list(listed))
    fetched = FetchedWorkflow(names[main])
    for path, told in listed.items():
        source = address.endpoint(kind, "descriptor", path)
        try:
            content = await _file(web, source, limit, told)
        except FileMissing:
            if told.get("file_type") != "OTHER":
                raise
            continue  # registries list files that they do not serve
        limit -= len(content)
        fetched.files[names[path]] = content
        fetched.sources[names[path]] = source
    return fetched


async def _listed(
    web: Web, address: TrsAddress, kind: str, limit: int
) -> dict[str, Mapping[str, Any]]:
    """ToolFile by path; nothing where the registry lists no files."""
    try:
        content, _ = await web.get(address.endpoint(kind, "files"), limit, "application/json")
    except FileMissing:
        return {}
    told = _json(content)
    files = [one for one in told if isinstance(one, dict)] if isinstance(told, list) else []
    if len(files) > _FILES:
        raise _wrong(f"has {len(files)} files; at most {_FILES} are fetched")
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


async def _file(web: Web, source: str, limit: int, told: Mapping[str, Any]) -> bytes:
    """FileWrapper: its content, or a URL where that is."""
    body, _ = await web.get(source, limit, "application/json")
    wrapper = _json(body)
    if not isinstance(wrapper, dict):
        raise _wrong(f"leads to something that is no TRS descriptor: {source[:200]}")
    if isinstance(text := wrapper.get("content"), str):
        content = text.encode()
    elif isinstance(elsewhere := wrapper.get("url"), str):
        content, _ = await web.get(elsewhere, limit)
    else:
        raise _wrong(f"leads to a descriptor without content: {source[:200]}")
    for checksum in (told.get("checksum"), *(wrapper.get("checksum") or ())):
        _check(content, checksum, source)
    return content


def _check(content: bytes, checksum: Any, source: str) -> None:
    if not isinstance(checksum, dict):
        return
    kind = str(checksum.get("type", "")).lower().replace("-", "")
    told = str(checksum.get("checksum", "")).lower()
    if kind == "sha256" and hashlib.sha256(content).hexdigest() != told:
        raise _wrong(f"leads to {source[:200]}, which is not what its checksum says")


def _names(paths: list[str]) -> dict[str, str]:
    """Names that keep the paths' places to each other; `../lib/a.wdl` needs a folder above it."""
    normal = {path: posixpath.normpath(path.lstrip("/")) for path in paths}
    deepest = max(path.split("/").count("..") for path in normal.values())
    above = "/".join(["trs"] * deepest)
    return {path: posixpath.normpath(posixpath.join(above, own)) for path, own in normal.items()}


def _is_primary(told: Mapping[str, Any]) -> bool:
    return told.get("file_type") == "PRIMARY_DESCRIPTOR"


def _kind(told: str) -> str:
    return told.upper().replace("-", "_").removeprefix("PLAIN_")


def _scheme(host: str) -> str:
    """TRS URIs mean https; a registry on this machine has mostly no certificate."""
    name = URL(f"https://{host}").host or ""
    try:
        return "http" if ip_address(name).is_loopback else "https"
    except ValueError:
        return "http" if name == "localhost" else "https"


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError as error:
        raise _wrong(f"leads to a registry that answers what is {json_reason(error)}") from error


def _wrong(why: str) -> InvalidRequest:
    return InvalidRequest(f"workflow_url {why}", field="workflow_url")


# Workflows by URL: fetched once, at submission, into the attachments of the run.


FILE, SOURCES = "workflow_file", "workflow_sources"
"""Marks of a request: the workflow's name among the attachments, and what was fetched as JSON: a
list of objects with `file`, `url`, `size` and `sha256`."""

LIMIT = 32 << 20
SECONDS = 60.0
_SCHEMES = ("http://", "https://", "trs://")
_BLOB = re.compile(r"https?://(?:www\.)?github\.com/([^/]+/[^/]+)/(?:blob|tree)/(.+)")
_OTHER_BLOB = re.compile(r"(https?://.+?/-/)(?:blob|tree)(/.+)")


class RemoteWorkflows:
    """Fetches at most `LIMIT` bytes within `seconds`: from the `web`, if there is one, and as
    `file:` URLs below `folders`."""

    def __init__(
        self,
        web: WorkflowWeb | None,
        folders: Sequence[Path] = (),
        *,
        seconds: float = SECONDS,
    ) -> None:
        self._web = web
        self._folders = folders
        self._seconds = seconds

    def takes(self, url: str) -> bool:
        """Whether it would try."""
        if is_file(url):
            return bool(self._folders)
        return self._web is not None and is_remote(url)

    async def fetch_workflow(
        self, request: RunRequest, kind: str, files: RunDirectoryDraft
    ) -> RunRequest:
        """The request with the marks, its workflow among `files`; `kind` is SMK, CWL or WDL.

        Raises InvalidRequest.
        """
        try:
            async with asyncio.timeout(self._seconds):
                fetched = await self._fetch(request.workflow_url, kind)
        except TimeoutError as error:
            raise _wrong(
                f"{redacted_url(request.workflow_url)} was not fetched within {self._seconds:.0f} s"
            ) from error
        except (TypeError, ValueError, RecursionError) as error:  # an odd address or answer
            why = redact_urls(str(error))
            raise _wrong(
                f"{redacted_url(request.workflow_url)} cannot be understood: {why}; correct the "
                "address, or have its registry answer as TRS 2.0 says"
            ) from error
        sources: list[JsonValue] = []
        for name, content in fetched.files.items():
            await _attach(files, name, content)
            sources.append(
                {
                    "file": name,
                    "url": fetched.sources[name],
                    "size": len(content),
                    "sha256": hashlib.sha256(content).hexdigest(),
                }
            )
        told = {FILE: fetched.main, SOURCES: json.dumps(sources, ensure_ascii=False)}
        return replace(request, marks={**request.marks, **told})

    async def close(self) -> None:
        if self._web is not None:
            await self._web.close()

    async def _fetch(self, url: str, kind: str) -> FetchedWorkflow:
        if self._web is None or is_file(url):
            fetched = await asyncio.to_thread(self._read, url)
        elif (address := read_address(url)) is not None:
            fetched = await fetch(self._web, address, kind, LIMIT)
        else:
            _refuse_pages(url)
            content, media_type = await self._web.get(url, LIMIT)
            if media_type in ("text/html", "application/xhtml+xml"):
                raise _wrong(
                    f"{redacted_url(url)} is a web page; give the address of the file itself"
                )
            name = unquote(urlsplit(url).path).rpartition("/")[2] or NAMES.get(kind, "workflow")
            fetched = FetchedWorkflow(name, {name: content}, {name: url})
        _check_text(fetched.files[fetched.main], url)
        return fetched

    def _read(self, url: str) -> FetchedWorkflow:
        """A file below one of the folders, also after all links are followed. Others are not even
        said to be there or not."""
        parts = urlsplit(url)
        path = Path(unquote(parts.path))
        try:
            real = path.resolve(strict=True)
            if parts.netloc in ("", "localhost") and self._holds(real):
                content = read_regular(real, 0, LIMIT + 1)
                if len(content) <= LIMIT:
                    return FetchedWorkflow(path.name, {path.name: content}, {path.name: url})
        except (OSError, RuntimeError, ValueError):
            pass
        raise _wrong(
            f"{redacted_url(url)} is no file of at most {LIMIT >> 20} MiB below the folders of the "
            "setting workflows.folders"
        )

    def _holds(self, real: Path) -> bool:
        return any(real.is_relative_to(folder.resolve()) for folder in self._folders)


def is_remote(url: str) -> bool:
    return url.lower().startswith(_SCHEMES)


def is_file(url: str) -> bool:
    return url.lower().startswith("file:")


def _refuse_pages(url: str) -> None:
    """Addresses that people copy from their browsers."""
    if url.lower().startswith("trs://"):
        raise _wrong(
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
        raise _wrong(f"{redacted_url(url)} is a page about the file; the file itself is at {raw}")


def _check_text(content: bytes, url: str) -> None:
    try:
        text = content.decode()
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text or not text.strip():
        raise _wrong(f"{redacted_url(url)} leads to what is no text; a workflow is a text file")


async def _attach(files: RunDirectoryDraft, name: str, content: bytes) -> None:
    async def whole() -> AsyncIterator[bytes]:
        yield content

    try:
        await files.attach(name, whole())
    except InvalidRequest as error:
        raise _wrong(f"leads to a file that cannot be kept: {error.message}") from error
