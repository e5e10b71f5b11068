"""Facts of a finished run for its crate, without credentials; and `CrateBuilder`, which streams the
crate as a ZIP.
"""

import asyncio
import hashlib
import json
import re
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Literal

from wesemu.errors import NotFound, WesemuError
from wesemu.provenance.redaction import REDACTED, redact, redact_text, redact_urls
from wesemu.runs.model import JsonValue, OutputFile, Run, workflow_kind
from wesemu.runs.run_directory import Workspace, read_json
from wesemu.storage.buckets import SCHEME, Buckets

Inclusion = Literal["small", "all", "none"]
"""Outputs to include in the crate; the others appear by URL."""

_LOCATION = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+")
SMALL = 1 << 20
SMALL_TOGETHER = 16 << 20
LARGEST_PART = 16 << 20
"""Largest workflow file or attachment in bytes; larger ones appear without content."""

HASHED = 64 << 20
"""Inputs above this size in bytes get no checksum, so a crate does not wait for gigabytes."""


@dataclass(frozen=True, slots=True)
class PartFile:
    """A workflow file or attachment, `name` in the crate.

    `path` is None if the content is left out. `redacted` means that the file has credentials and
    the crate gets `redacted_content` instead.
    """

    name: str
    path: Path | None
    size: int
    url: str | None = None
    redacted: bool = False


@dataclass(frozen=True, slots=True)
class InputFile:
    """An input from outside the run directory, given by `parameter`, such as `reads.0.first`."""

    url: str
    parameter: str
    size: int | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class ResultFile:
    """An output; `path` is set if its content is in the crate.

    `withheld` means that the content was left out because of credentials.
    """

    output: OutputFile
    url: str
    path: Path | None
    withheld: bool = False


@dataclass(frozen=True, slots=True)
class CrateFacts:
    """Everything that the crate states.

    `url` is the run's address, `log` its RunLog (WES) as JSON. `parts[0]` is the workflow itself.
    `engine` is the engine's name and version, if known. Credentials that
    `wesemu.provenance.redaction` recognises are removed.
    """

    run: Run
    url: str
    log: str
    language: str
    parts: tuple[PartFile, ...]
    inputs: tuple[InputFile, ...]
    results: tuple[ResultFile, ...]
    engine: tuple[str, str] | None


def gather(
    run: Run,
    workspace: Workspace,
    *,
    url: str,
    log: str,
    inclusion: Inclusion,
    buckets: Buckets,
    pipelines: Path,
) -> CrateFacts:
    """Collect the facts of a run.

    Raise OSError if the run directory is gone, NotFound if its workflow is.
    """
    parts = [*(_bundled(run, pipelines) if run.workflow else []), *_attached(run, workspace)]
    if not parts:
        raise NotFound(f"the workflow's files are gone from the directory of run {run.id}")
    return CrateFacts(
        run=(redacted_run := _redacted_run(run)),
        url=url,
        log=json.dumps(redact(json.loads(log))),
        language=workflow_kind(run.request.workflow_type),
        parts=tuple(parts),
        inputs=tuple(_inputs(run, redacted_run, buckets)),
        results=tuple(_results(run, workspace, url, inclusion)),
        engine=_engine(workspace),
    )


def _redacted_run(run: Run) -> Run:
    """Return the run without credentials and without the server's internal fields."""
    request = run.request
    params = redact(request.params)
    assert isinstance(params, dict)
    request = replace(
        request,
        params=params,
        workflow_url=redact_urls(request.workflow_url),
        tags=_redacted_texts(request.tags),
        engine_parameters=_redacted_texts(request.engine_parameters),
        echo={},
        key=None,
        callback_url=None,
        workflow_file=None,
        workflow_sources=(),
    )
    failure = run.failure and replace(run.failure, message=redact_text(run.failure.message))
    return replace(
        run,
        request=request,
        failure=failure,
        tags=_redacted_texts(run.tags),
        tools=_redacted_texts(run.tools),
    )


def _redacted_texts(texts: Mapping[str, str]) -> dict[str, str]:
    redacted = redact(dict(texts))
    assert isinstance(redacted, dict)
    return {name: str(text) for name, text in redacted.items()}


def _bundled(run: Run, pipelines: Path) -> list[PartFile]:
    """Return the files of this server's pipeline, with those of other pipelines that it
    includes.
    """
    main = f"{run.workflow}/workflow/Snakefile"
    names = sorted(
        path.relative_to(pipelines).as_posix()
        for path in pipelines.glob("*/workflow/**/*")
        if path.is_file() and "__pycache__" not in path.parts
    )
    return [_part(f"pipelines/{name}", pipelines / name) for name in sorted(names, key=main.__ne__)]


def _attached(run: Run, workspace: Workspace) -> list[PartFile]:
    main = run.request.workflow_file or run.request.workflow_url
    urls = {source.file: redact_urls(source.url) for source in run.request.workflow_sources}
    root = workspace.attachments
    names = sorted(
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if path.is_file() and not path.is_symlink()
    )
    if main not in names:
        main = main.rpartition("#")[0]  # a process of a packed CWL document
    return [
        _part(f"workflow/{name}", root / name, urls.get(name))
        for name in sorted(names, key=main.__ne__)
    ]


def _part(name: str, path: Path, url: str | None = None) -> PartFile:
    size = path.stat().st_size
    if size > LARGEST_PART:
        return PartFile(name, None, size, url)
    redacted = redacted_content(path)
    return PartFile(
        name, path, size if redacted is None else len(redacted), url, redacted is not None
    )


def redacted_content(path: Path) -> bytes | None:
    """Return the file's content without the credentials in its URLs; None if there are none."""
    content = path.read_bytes()
    text = content.decode(errors="surrogateescape")  # keeps bytes that are not UTF-8
    redacted = redact_urls(text)
    return None if redacted == text else redacted.encode(errors="surrogateescape")


def _inputs(run: Run, redacted_run: Run, buckets: Buckets) -> Iterator[InputFile]:
    """Yield each location in the parameters once, except the run's own outputs.

    Locations that differ in their credentials only are numbered.
    """
    seen = {output.published for output in run.outputs}
    counts: Counter[str] = Counter()
    for name, text, redacted in _texts(run.request.params, redacted_run.request.params):
        if _is_location(text) and _is_location(redacted) and text not in seen:
            seen.add(text)
            counts[redacted] += 1
            another = "" if counts[redacted] == 1 else f"-{counts[redacted]}"
            url = redacted.replace(REDACTED, f"{REDACTED}{another}")
            yield _input(text, url, name, buckets)


def _is_location(text: str) -> bool:
    """Return True if the whole text is a URL."""
    return text.isprintable() and _LOCATION.fullmatch(text) is not None


def _input(location: str, url: str, parameter: str, buckets: Buckets) -> InputFile:
    if not location.startswith(SCHEME):
        return InputFile(url, parameter)
    try:
        path = buckets.existing(location)
        if not path.is_file():
            return InputFile(url, parameter)
        size = path.stat().st_size
        return InputFile(url, parameter, size, _digest(path) if size <= HASHED else None)
    except (WesemuError, OSError):
        return InputFile(url, parameter)  # gone since


def _texts(
    value: JsonValue, redacted: JsonValue, path: tuple[str, ...] = ()
) -> Iterator[tuple[str, str, str]]:
    """Yield (dotted path, text, redacted text) of all texts in the parameters."""
    match value, redacted:
        case str(), str():
            yield ".".join(path), value, redacted
        case list(), list():
            for number, (item, redacted_item) in enumerate(zip(value, redacted, strict=True)):
                yield from _texts(item, redacted_item, (*path, str(number)))
        case dict(), dict():
            pairs = zip(value.values(), redacted.items(), strict=True)
            for item, (name, redacted_item) in pairs:
                yield from _texts(item, redacted_item, (*path, name))


def _results(
    run: Run, workspace: Workspace, url: str, inclusion: Inclusion
) -> Iterator[ResultFile]:
    left = SMALL_TOGETHER
    folder = workspace.outputs.resolve()
    for output in run.outputs:
        path = workspace.outputs / output.path
        small = output.size <= min(SMALL, left)
        wanted = inclusion == "all" or (inclusion == "small" and small)
        # Published files are regular files. A link has replaced the file since, and may lead out.
        included = wanted and path.is_file() and path.resolve() == folder / output.path
        # Large outputs, included on request ("all"), are not searched for credentials.
        withheld = included and output.size <= SMALL and redacted_content(path) is not None
        if included and not withheld:
            left -= output.size
        yield ResultFile(output, url, path if included and not withheld else None, withheld)


def _engine(workspace: Workspace) -> tuple[str, str] | None:
    try:
        spec = read_json(workspace.root / "engine.json")
        return str(spec["engine"]), str(spec["version"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# The crate as a stream.

_CHUNK = 256 << 10


class CrateBuilder:
    """Builds crates in threads.

    Reads inputs from `buckets`, and bundled workflows from `pipelines`.
    """

    def __init__(self, buckets: Buckets, pipelines: Path) -> None:
        self._buckets = buckets
        self._pipelines = pipelines

    async def chunks(
        self, run: Run, workspace: Workspace, *, url: str, log: str, inclusion: Inclusion
    ) -> AsyncGenerator[bytes]:
        """Yield the ZIP of the crate of a finished run while it is made. Raise OSError."""

        def make() -> Iterator[bytes]:
            facts = gather(
                run,
                workspace,
                url=url,
                log=log,
                inclusion=inclusion,
                buckets=self._buckets,
                pipelines=self._pipelines,
            )
            # Imported here: the extra `crate` may be missing, and the import takes long.
            crate = import_module("wesemu.provenance.ro_crate").build(facts)
            stream: Iterator[bytes] = crate.stream_zip(chunk_size=_CHUNK)
            return stream

        stream = await asyncio.to_thread(make)
        try:
            while chunk := await asyncio.to_thread(next, stream, b""):
                yield chunk
        finally:
            with suppress(ValueError):  # zipfile raises it for an unfinished archive
                await asyncio.to_thread(getattr(stream, "close", bool))
