"""`wesemu submit`: send a workflow of one's own: a file, a folder, a URL, or a GitHub repository.

Files are sent as attachments. A folder is sent whole, without hidden files, so a workflow finds its
rules, scripts and configuration by their relative paths.
"""

import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, Literal

import typer

from wesemu.cli.output import (
    DEFAULT_SERVER,
    CommandRefused,
    ExitStatus,
    Server,
    Token,
    parse_path,
    path_option,
)
from wesemu.errors import InvalidRequest

if TYPE_CHECKING:
    from wesemu.client import AsyncClient
    from wesemu.runs.model import JsonObject, JsonValue

MAIN_FILES = (
    *("Snakefile", "snakefile", "workflow/Snakefile", "workflow/snakefile"),
    *("main.cwl", "workflow.cwl", "main.wdl", "workflow.wdl"),
)
"""Names of the workflow in a folder, in the order in which they are looked up."""

FLAGS = {
    "workflow_url": "WORKFLOW",
    "workflow_type": "--type",
    "workflow_params": "--params",
    "workflow_attachment": "--attach",
    "workflow_engine_parameters": "--engine-parameter",
    "tags": "--tag",
}
"""The flags for the fields of RunWorkflow."""

_URL = re.compile(r"(https?|trs|file)://?", re.IGNORECASE)
_GITHUB = re.compile(r"github:(?P<name>[\w.-]+/[\w.-]+?)(?:@(?P<ref>[\w./-]+))?")
_ARCHIVES = "https://codeload.github.com"
_LARGEST_ARCHIVE = 256 << 20
"""Bytes of a repository's archive, packed and unpacked."""


@dataclass(frozen=True, slots=True)
class OwnWorkflow:
    """A workflow to send: its name for people, `workflow_url`, and its files by attachment name."""

    name: str
    url: str
    files: Mapping[str, Path]


def register(app: typer.Typer) -> None:
    app.command("submit", rich_help_panel="Jobs")(submit)


def submit(
    workflow: Annotated[
        str,
        typer.Argument(
            metavar="WORKFLOW",
            help="A file, a folder, a URL, or github:OWNER/REPO[@TAG].",
            show_default=False,
        ),
    ],
    param: Annotated[
        list[str] | None,
        typer.Option(help="A parameter; JSON, or else text. May be repeated.", metavar="KEY=VALUE"),
    ] = None,
    params: Annotated[
        Path | None,
        path_option(help="A JSON or YAML file of parameters.", metavar="FILE"),
    ] = None,
    attach: Annotated[
        list[Path] | None,
        path_option(help="A further file or folder to send. May be repeated.", metavar="PATH"),
    ] = None,
    kind: Annotated[
        Literal["SMK", "CWL", "WDL"] | None,
        typer.Option(
            "--type",
            help="The type of the workflow.",
            show_default="from the file's name, else SMK",
            case_sensitive=False,
        ),
    ] = None,
    tag: Annotated[
        list[str] | None,
        typer.Option(help="A tag of the run. May be repeated.", metavar="KEY=VALUE"),
    ] = None,
    engine_parameter: Annotated[
        list[str] | None,
        typer.Option(help="A parameter of the engine. May be repeated.", metavar="KEY=VALUE"),
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Wait for the end; exit with status 1 if it fails.")
    ] = False,
    server: Server = DEFAULT_SERVER,
    token: Token = None,
) -> None:
    """Send a workflow of your own and print its run id.

    A folder is sent whole, without hidden files; its workflow is Snakefile, workflow/Snakefile,
    main.cwl or main.wdl.
    """
    import json

    from wesemu.cli.output import print_note, print_result
    from wesemu.cli.remote import call, find, tasks_text
    from wesemu.cli.remote import watch as follow
    from wesemu.client.transport import nested, text

    values = parameters(params, param or ())
    tags, engine = _pairs(tag or (), "--tag"), _pairs(engine_parameter or (), "--engine-parameter")

    with ExitStack() as temporary:
        own = _locate(workflow, temporary)
        files = {**own.files, **_attachments(attach or (), workflow)}

        async def act(client: "AsyncClient") -> bool:
            answer = await client.wes.run_workflow(
                own.url,
                values,
                workflow_type=kind or type_of(own.url),
                workflow_type_version="",
                tags={"wesemu.workflow": own.name, **tags},
                engine_parameters=engine,
                attachments=list(files.items()),
            )
            run_id = text(answer, "run_id")
            if not run_id and not nested(answer, "wesemu"):
                raise CommandRefused("the server answers without a run id; is it a WES server?")
            if not run_id:  # a dry run
                print_note(tasks_text(answer))
                return True
            print_result(json.dumps({"run_id": run_id}))
            if not watch:
                return True
            return await follow(client, run_id, (await find(client, run_id)).name)

        if not call(server, token, act, FLAGS):
            raise typer.Exit(ExitStatus.FAILED)


def type_of(url: str) -> str:
    """Return the workflow type by the suffix of a file name or URL; SMK for other suffixes."""
    path = url.partition("?")[0].partition("#")[0].lower()
    return next((kind for kind in ("CWL", "WDL") if path.endswith(f".{kind.lower()}")), "SMK")


# --- where a workflow is ---


def _locate(workflow: str, temporary: ExitStack) -> OwnWorkflow:
    """Find the workflow and its files. `temporary` deletes a downloaded repository."""
    if (repository := _GITHUB.fullmatch(workflow)) is not None:
        folder = Path(temporary.enter_context(tempfile.TemporaryDirectory(prefix="wesemu-")))
        name, ref = repository["name"], repository["ref"] or "HEAD"
        return _in_folder(_download(name, ref, folder), name.partition("/")[2])
    if workflow.startswith("github:"):
        raise CommandRefused(
            f"{workflow!r} is not a repository; write github:OWNER/REPO or github:OWNER/REPO@TAG",
            ExitStatus.USAGE,
        )
    if _URL.match(workflow):
        name = workflow.partition("?")[0].partition("#")[0].rstrip("/").rpartition("/")[2]
        return OwnWorkflow(name or workflow, workflow, {})
    file, hash_sign, process = workflow.partition("#")
    path = parse_path(workflow if Path(workflow).exists() else file)
    if path.is_dir():
        return _in_folder(path, path.resolve().name)
    if not path.is_file():
        raise CommandRefused(f"there is no file or folder {workflow}", ExitStatus.USAGE)
    fragment = f"{hash_sign}{process}" if path == Path(file) else ""
    name = path.name if path.suffix else path.resolve().parent.name
    return OwnWorkflow(name, f"{path.name}{fragment}", {path.name: path})


def _in_folder(folder: Path, name: str) -> OwnWorkflow:
    main = next((main for main in MAIN_FILES if (folder / main).is_file()), None)
    if main is None:
        raise CommandRefused(
            f"{name} has no workflow: none of {', '.join(MAIN_FILES)}; name the workflow's file, "
            "and send others with --attach",
            ExitStatus.USAGE,
        )
    return OwnWorkflow(name, main, dict(_files_below(folder)))


def _files_below(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield names and paths of all files that are not hidden, sorted; follow no linked folder."""
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(each for each in folders if not each.startswith("."))
        for name in sorted(names):
            path = Path(root, name)
            if not name.startswith(".") and path.is_file():
                yield path.relative_to(folder).as_posix(), path


def _attachments(paths: Sequence[Path], workflow: str) -> dict[str, Path]:
    """Return further files by name: relative to the workflow's folder, or else their own name."""
    own = Path(workflow)
    top = (own if own.is_dir() else own.parent).resolve()
    files: dict[str, Path] = {}
    for path in paths:
        if not path.exists():
            raise CommandRefused(f"--attach: there is no file {path}", ExitStatus.USAGE)
        real = path.resolve()
        inside = real.is_relative_to(top) and real != top
        name = real.relative_to(top).as_posix() if inside else path.resolve().name
        if path.is_dir():
            files |= {f"{name}/{below}": file for below, file in _files_below(path)}
        else:
            files[name] = path
    return files


# --- repositories of GitHub ---


def _download(name: str, ref: str, folder: Path) -> Path:
    """Download and unpack a repository. Return the folder with its files."""
    import asyncio

    archive = folder / "archive.tar.gz"
    asyncio.run(_fetch(f"{_ARCHIVES}/{name}/tar.gz/{ref}", name, ref, archive))
    unpacked = folder / "unpacked"
    _unpack(archive, unpacked, name)
    return next(unpacked.iterdir(), unpacked)  # the archive has one folder, REPO-REF


async def _fetch(url: str, name: str, ref: str, archive: Path) -> None:
    import asyncio

    import aiohttp

    from wesemu.util.text import network_reason

    size = 0
    try:
        async with (
            aiohttp.ClientSession(trust_env=True) as session,
            session.get(url, timeout=aiohttp.ClientTimeout(total=300, sock_connect=10)) as response,
        ):
            if response.status != 200:
                raise CommandRefused(
                    f"GitHub has no public repository {name} with {ref} "
                    f"(status {response.status}); for a private one, submit a clone's folder"
                )
            with await asyncio.to_thread(archive.open, "wb") as file:
                async for chunk in response.content.iter_chunked(1 << 20):
                    size += await asyncio.to_thread(file.write, chunk)
                    if size > _LARGEST_ARCHIVE:
                        raise _too_large(name)
    except (aiohttp.ClientError, TimeoutError) as error:
        raise CommandRefused(
            f"github:{name} cannot be downloaded: {network_reason(error)}", ExitStatus.UNREACHABLE
        ) from error


def _unpack(archive: Path, folder: Path, name: str) -> None:
    """Unpack files, folders and links; refuse what leads out of the folder.

    The filters of tarfile do the same, but Python 3.11.3 and earlier lack them.
    """
    import tarfile
    import zlib

    folder.mkdir()
    links: list[tuple[Path, str]] = []
    try:
        with tarfile.open(archive) as content:
            left = _LARGEST_ARCHIVE
            for member in content:
                left -= member.size + tarfile.BLOCKSIZE  # a million empty files are large, too
                if left < 0:
                    raise _too_large(name)
                path = folder / member.name
                if not _is_inside(path, folder):
                    raise tarfile.TarError(f"{member.name!r} leads out of it")
                if member.isdir():
                    path.mkdir(parents=True, exist_ok=True)
                elif member.issym():
                    links.append((path, member.linkname))
                elif (file := content.extractfile(member)) is None:
                    raise tarfile.TarError(f"{member.name!r} is neither a file nor a folder")
                else:
                    _write(path, file, executable=bool(member.mode & 0o100))
        # Links come last, so that no file is written through one; then all of them are resolved.
        for path, target in links:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(target)
        for path, target in links:
            if not _is_inside(path, folder):
                raise tarfile.TarError(f"the link {path.name!r} leads out of it, to {target!r}")
    except (tarfile.TarError, OSError, ValueError, EOFError, zlib.error) as error:
        raise CommandRefused(f"the archive of github:{name} is damaged: {error}") from error


def _is_inside(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def _write(path: Path, content: IO[bytes], *, executable: bool) -> None:
    import shutil

    path.parent.mkdir(parents=True, exist_ok=True)
    with content, path.open("xb") as file:
        shutil.copyfileobj(content, file)
    path.chmod(0o755 if executable else 0o644)


def _too_large(name: str) -> CommandRefused:
    return CommandRefused(
        f"github:{name} is larger than {_LARGEST_ARCHIVE >> 20} MiB; clone it and submit the folder"
    )


# --- parameters ---


def parameters(file: Path | None, given: Sequence[str], flag: str = "--param") -> "JsonObject":
    """Return the parameters of the file, with those of `flag` added or replaced."""
    return {
        **(_read_parameters(file) if file else {}),
        **{name: _value(text) for name, text in _pairs(given, flag).items()},
    }


_LARGEST_PARAMETERS = 16 << 20
"""Bytes of a file of parameters, and of their JSON: YAML's anchors can multiply a small file."""


def _read_parameters(file: Path) -> "JsonObject":
    import json

    import yaml

    from wesemu.util.text import json_reason, without_repeats

    try:
        if file.stat().st_size > _LARGEST_PARAMETERS:
            raise ValueError(f"it is larger than {_LARGEST_PARAMETERS >> 20} MiB")
        text = file.read_text(encoding="utf-8-sig")
        try:  # YAML would read JSON's 1e-5 as text
            content = json.loads(text, object_pairs_hook=without_repeats, parse_constant=_refuse)
        except json.JSONDecodeError:
            content = _read_yaml(text)
        # through JSON, because YAML has dates, which no parameter can be
        values = json.loads(
            _limited_json({} if content is None else content), object_pairs_hook=without_repeats
        )
    except (UnicodeDecodeError, RecursionError) as error:
        reason = f"it is {json_reason(error)}"
    except InvalidRequest as error:
        reason = f"the key {error.field!r} is given twice"
    except (yaml.YAMLError, TypeError, ValueError) as error:
        reason = str(error).replace("\n", " ")
    else:
        if not isinstance(values, dict):
            raise CommandRefused(f"--params: {file} has no names and values", ExitStatus.USAGE)
        return values
    raise CommandRefused(
        f"--params: {file} cannot be read as JSON or YAML: {reason}", ExitStatus.USAGE
    )


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a finite number")


def _read_yaml(text: str) -> object:
    import yaml

    class OnceEach(yaml.SafeLoader):
        """YAML's own loader keeps the last of two values of one key."""

        def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
            """Check the keys as they are written: the constructor adds those of merges (`<<`)."""
            node: yaml.MappingNode = super().compose_mapping_node(anchor)
            seen = set[str]()
            for key, _ in node.value:
                if not isinstance(key, yaml.ScalarNode) or key.tag.endswith(":merge"):
                    continue
                if key.value in seen:
                    raise ValueError(f"the key {key.value!r} is given twice")
                seen.add(key.value)
            return node

    return yaml.load(text, OnceEach)  # noqa: S506  # a safe loader


def _limited_json(content: object) -> str:
    """Return the JSON of a value. Raises ValueError if it is too long, or for infinite numbers."""
    import json

    pieces, size = [], 0
    for piece in json.JSONEncoder(allow_nan=False).iterencode(content):
        pieces.append(piece)
        size += len(piece)
        if size > _LARGEST_PARAMETERS:
            raise ValueError(f"its values take more than {_LARGEST_PARAMETERS >> 20} MiB of JSON")
    return "".join(pieces)


def _value(text: str) -> "JsonValue":
    import json

    try:
        value: JsonValue = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return text
    return value


def _pairs(texts: Sequence[str], flag: str) -> dict[str, str]:
    pairs = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise CommandRefused(f"{flag}: {text!r} is not KEY=VALUE", ExitStatus.USAGE)
        if name in pairs:
            raise CommandRefused(f"{flag}: {name!r} is given twice", ExitStatus.USAGE)
        pairs[name] = value
    return pairs
