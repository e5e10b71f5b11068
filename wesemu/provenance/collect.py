"""What a finished run leaves for its crate, without the credentials in it. Blocks on the disk."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from wesemu.errors import NotFound, WesemuError
from wesemu.provenance.redaction import STRUCK, redact, redact_text, redact_urls
from wesemu.runs.model import JsonValue, OutputFile, Run, workflow_kind
from wesemu.runs.run_directory import Workspace, read_regular
from wesemu.storage.buckets import SCHEME, Buckets

Inclusion = Literal["small", "all", "none"]
"""Which outputs lie in the crate; the others are told by their URL."""

_LOCATION = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+")
SMALL = 1 << 20
SMALL_TOGETHER = 16 << 20
LARGEST_PART = 16 << 20
"""Of the workflow's own files and attachments; larger ones are told without their content."""

HASHED = 64 << 20
"""Larger inputs are told without a checksum: who asks for a crate does not wait for gigabytes."""

_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class PartFile:
    """A file of the workflow or an attachment: `name` in the crate, None for `path` where its
    content is left out; `struck` says that it names credentials (`struck_content`)."""

    name: str
    path: Path | None
    size: int
    url: str | None = None
    struck: bool = False


@dataclass(frozen=True, slots=True)
class InputFile:
    """What a parameter names outside the run: `parameter` is its name, with the way to a text deep
    inside (`reads.0.first`)."""

    url: str
    parameter: str
    size: int | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class ResultFile:
    """An output; `path` where its content goes into the crate. `withheld` says that it would have,
    if it did not name credentials."""

    output: OutputFile
    url: str
    path: Path | None
    withheld: bool = False


@dataclass(frozen=True, slots=True)
class CrateFacts:
    """`url` is the run's own, `log` its RunLog as JSON; `parts[0]` is the workflow itself.

    `engine` is its name and version, as far as the run tells. Nothing here has a credential that
    `wesemu.provenance.redaction` knows.
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
    """Raises OSError where the run directory is gone, NotFound where its workflow is."""
    parts = [*(_bundled(run, pipelines) if run.workflow else []), *_attached(run, workspace)]
    if not parts:
        raise NotFound(f"the workflow's files are gone from the directory of run {run.id}")
    return CrateFacts(
        run=(told := _struck(run)),
        url=url,
        log=json.dumps(redact(json.loads(log))),
        language=workflow_kind(run.request.workflow_type),
        parts=tuple(parts),
        inputs=tuple(_inputs(run, told, buckets)),
        results=tuple(_results(run, workspace, url, inclusion)),
        engine=_engine(workspace),
    )


def _struck(run: Run) -> Run:
    """What a run was asked for, what is said of it and why it failed; without what the server has
    kept for itself."""
    request = run.request
    params = redact(request.params)
    assert isinstance(params, dict)
    request = replace(
        request,
        params=params,
        workflow_url=redact_urls(request.workflow_url),
        tags=_struck_texts(request.tags),
        engine_parameters=_struck_texts(request.engine_parameters),
        echo={},
        marks={},
    )
    failure = run.failure and replace(run.failure, message=redact_text(run.failure.message))
    return replace(run, request=request, failure=failure, tags=_struck_texts(run.tags))


def _struck_texts(texts: Mapping[str, str]) -> dict[str, str]:
    told = redact(dict(texts))
    assert isinstance(told, dict)
    return {name: str(text) for name, text in told.items()}


def _bundled(run: Run, pipelines: Path) -> list[PartFile]:
    """The pipeline as this server has it, with the rules that it takes from its neighbours."""
    main = f"{run.workflow}/workflow/Snakefile"
    names = sorted(
        path.relative_to(pipelines).as_posix()
        for path in pipelines.glob("*/workflow/**/*")
        if path.is_file() and "__pycache__" not in path.parts
    )
    return [_part(f"pipelines/{name}", pipelines / name) for name in sorted(names, key=main.__ne__)]


def _attached(run: Run, workspace: Workspace) -> list[PartFile]:
    main = run.request.marks.get("workflow_file", run.request.workflow_url)
    sources: list[dict[str, str]] = json.loads(run.request.marks.get("workflow_sources", "[]"))
    urls = {source["file"]: redact_urls(source["url"]) for source in sources}
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
    struck = redacted_content(path)
    return PartFile(name, path, size if struck is None else len(struck), url, struck is not None)


def redacted_content(path: Path) -> bytes | None:
    """A file's, without the credentials that it names in URLs; None where one reads none there."""
    content = path.read_bytes()
    text = content.decode(errors="surrogateescape")  # so that every byte comes back as it was
    struck = redact_urls(text)
    return None if struck == text else struck.encode(errors="surrogateescape")


def _inputs(run: Run, told: Run, buckets: Buckets) -> Iterator[InputFile]:
    """Every location among the parameters that is none of the run's own outputs, once, as `told`
    has it. Those that differ in their credentials alone are numbered."""
    seen = {output.published for output in run.outputs}
    shown: Counter[str] = Counter()
    for name, text, struck in _texts(run.request.params, told.request.params):
        if _is_location(text) and _is_location(struck) and text not in seen:
            seen.add(text)
            shown[struck] += 1
            another = "" if shown[struck] == 1 else f"-{shown[struck]}"
            url = struck.replace(STRUCK, f"{STRUCK}{another}")
            yield _input(text, url, name, buckets)


def _is_location(text: str) -> bool:
    """Whether all of a text is a URL; one that mentions another is none."""
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
    value: JsonValue, told: JsonValue, way: tuple[str, ...] = ()
) -> Iterator[tuple[str, str, str]]:
    """Each with the way to it, as it is and as it is told."""
    match value, told:
        case str(), str():
            yield ".".join(way), value, told
        case list(), list():
            for number, (item, shown) in enumerate(zip(value, told, strict=True)):
                yield from _texts(item, shown, (*way, str(number)))
        case dict(), dict():
            for name, item in value.items():
                shown_name = redact_text(name)
                yield from _texts(item, told[shown_name], (*way, shown_name))


def _results(
    run: Run, workspace: Workspace, url: str, inclusion: Inclusion
) -> Iterator[ResultFile]:
    left = SMALL_TOGETHER
    folder = workspace.outputs.resolve()
    for output in run.outputs:
        path = workspace.outputs / output.path
        small = output.size <= min(SMALL, left)
        wanted = inclusion == "all" or (inclusion == "small" and small)
        # published files are plain ones; whatever is not was put there since
        there = wanted and path.is_file() and path.resolve() == folder / output.path
        # what is larger was asked for by name: all outputs
        withheld = there and output.size <= SMALL and redacted_content(path) is not None
        if there and not withheld:
            left -= output.size
        yield ResultFile(output, url, path if there and not withheld else None, withheld)


def _engine(workspace: Workspace) -> tuple[str, str] | None:
    try:
        order = json.loads(read_regular(workspace.root / "engine.json"))
        return str(order["engine"]), str(order["version"])
    except (OSError, ValueError, KeyError):
        return None


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
