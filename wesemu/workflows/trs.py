"""GA4GH Tool Registry Service 2.0: a workflow by the address of one of its versions.

Every file that the registry lists for the version comes along, so that what a descriptor imports
is there.
"""

import hashlib
import json
import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any, Protocol
from urllib.parse import quote, unquote

from yarl import URL

from wesemu.errors import InvalidRequest
from wesemu.wording import json_reason
from wesemu.workflows.web import FileMissing

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
class Fetched:
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


async def fetch(web: Web, address: TrsAddress, kind: str, limit: int) -> Fetched:
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
    fetched = Fetched(names[main])
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


async def _only_descriptor(web: Web, address: TrsAddress, kind: str, limit: int) -> Fetched:
    source = address.endpoint(kind, "descriptor")
    name = NAMES.get(kind, "workflow")
    content = await _file(web, source, limit, {})
    return Fetched(name, {name: content}, {name: source})


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
