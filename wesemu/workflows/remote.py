"""Workflows by URL: fetched once, at submission, into the attachments of the run.

At submission and not when the run begins: who asks is told at once what is wrong, a dry run sees
the workflow, and a run that is accepted has its bytes on disk: whatever happens to the web or to
this server afterwards, the same workflow is carried out.
"""

import asyncio
import hashlib
import json
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from wesemu.errors import InvalidRequest
from wesemu.redaction import strike_urls
from wesemu.runs.model import JsonValue, RunRequest
from wesemu.runs.workspace import Draft, read_regular
from wesemu.workflows.trs import NAMES, Fetched, fetch, read_address
from wesemu.workflows.web import WorkflowWeb, shown

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

    async def collect(self, request: RunRequest, kind: str, files: Draft) -> RunRequest:
        """The request with the marks, its workflow among `files`; `kind` is SMK, CWL or WDL.

        Raises InvalidRequest.
        """
        try:
            async with asyncio.timeout(self._seconds):
                fetched = await self._fetch(request.workflow_url, kind)
        except TimeoutError as error:
            raise _wrong(
                f"{shown(request.workflow_url)} was not fetched within {self._seconds:.0f} s"
            ) from error
        except (TypeError, ValueError, RecursionError) as error:  # an odd address or answer
            why = strike_urls(str(error))
            raise _wrong(
                f"{shown(request.workflow_url)} cannot be understood: {why}; correct the "
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

    async def _fetch(self, url: str, kind: str) -> Fetched:
        if self._web is None or is_file(url):
            fetched = await asyncio.to_thread(self._read, url)
        elif (address := read_address(url)) is not None:
            fetched = await fetch(self._web, address, kind, LIMIT)
        else:
            _refuse_pages(url)
            content, media_type = await self._web.get(url, LIMIT)
            if media_type in ("text/html", "application/xhtml+xml"):
                raise _wrong(f"{shown(url)} is a web page; give the address of the file itself")
            name = unquote(urlsplit(url).path).rpartition("/")[2] or NAMES.get(kind, "workflow")
            fetched = Fetched(name, {name: content}, {name: url})
        _check_text(fetched.files[fetched.main], url)
        return fetched

    def _read(self, url: str) -> Fetched:
        """A file below one of the folders, also after all links are followed. Others are not even
        said to be there or not."""
        parts = urlsplit(url)
        path = Path(unquote(parts.path))
        try:
            real = path.resolve(strict=True)
            if parts.netloc in ("", "localhost") and self._holds(real):
                content = read_regular(real, 0, LIMIT + 1)
                if len(content) <= LIMIT:
                    return Fetched(path.name, {path.name: content}, {path.name: url})
        except (OSError, RuntimeError, ValueError):
            pass
        raise _wrong(
            f"{shown(url)} is no file of at most {LIMIT >> 20} MiB below the folders of the "
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
            f"{shown(url)} is not understood; write trs://HOST/tools/ID/versions/VERSION, "
            "the ID with %2F for its slashes"
        )
    raw = None
    if (match := _BLOB.fullmatch(url)) is not None:
        raw = f"https://raw.githubusercontent.com/{match[1]}/{match[2]}"
    elif (match := _OTHER_BLOB.fullmatch(url)) is not None:
        raw = f"{match[1]}raw{match[2]}"
    if raw is not None:
        raw = strike_urls(raw)
        raise _wrong(f"{shown(url)} is a page about the file; the file itself is at {raw}")


def _check_text(content: bytes, url: str) -> None:
    try:
        text = content.decode()
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text or not text.strip():
        raise _wrong(f"{shown(url)} leads to what is no text; a workflow is a text file")


async def _attach(files: Draft, name: str, content: bytes) -> None:
    async def whole() -> AsyncIterator[bytes]:
        yield content

    try:
        await files.attach(name, whole())
    except InvalidRequest as error:
        raise _wrong(f"leads to a file that cannot be kept: {error.message}") from error


def _wrong(why: str) -> InvalidRequest:
    return InvalidRequest(f"workflow_url {why}", field="workflow_url")
