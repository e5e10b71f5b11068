"""`wesemu bucket`: the folders that jobs read from and write to."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wesemu.cli.options import AsJson, Data
from wesemu.errors import BucketNotFound
from wesemu.objects.hidden import is_hidden

if TYPE_CHECKING:
    from wesemu.objects.buckets import Buckets

_SCHEME = "oss://"


def register(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, help="Buckets: folders in the data directory.")
    group.command("ls")(show)
    group.command("cp")(copy)
    app.add_typer(group, name="bucket", rich_help_panel="Data")


def show(
    location: Annotated[
        str, typer.Argument(help="oss://BUCKET or oss://BUCKET/KEY.", show_default="all buckets")
    ] = "",
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """List the buckets, or every file below one."""
    from wesemu.cli.output import give, give_json

    root = _root(data)
    if not location:
        names = _buckets(root).names()
        if as_json:
            give_json([{"bucket": name} for name in names])
        for name in () if as_json else names:
            give(f"{_SCHEME}{name}")
        return
    files = _files(root, location)
    if as_json:
        give_json([{"location": place, "size": size} for place, size in files])
    for place, size in () if as_json else files:
        give(f"{size:>14,}  {place}")


def copy(
    source: Annotated[str, typer.Argument(help="A file, or oss://BUCKET/KEY.")],
    target: Annotated[
        str, typer.Argument(help="A file or folder, or oss://BUCKET/KEY; a new bucket is made.")
    ],
    data: Data = None,
) -> None:
    """Copy a file into a bucket, out of one, or between two."""
    from wesemu.cli.output import give

    root = _root(data)
    if target.startswith(_SCHEME):
        from wesemu.cli.configuration import check_data

        check_data(data)
    file = _source(root, source)
    place = _target(root, target, file.name)
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = place.with_name(f".wesemu-{os.getpid()}.part")  # any name fits
    try:
        shutil.copyfile(file, temporary)
        temporary.replace(place)
    finally:
        temporary.unlink(missing_ok=True)
    give(str(place))


def _root(data: Path | None) -> Path:
    from wesemu.cli.configuration import load

    return load(data=data).data / "buckets"


def _shown(top: Path, bucket: Path) -> Iterator[Path]:
    for path in top.rglob("*"):
        if path.is_file() and not is_hidden(path.relative_to(bucket).as_posix()):
            yield path


def _buckets(root: Path) -> "Buckets":
    from wesemu.objects.buckets import Buckets

    return Buckets(root)


def _files(root: Path, location: str) -> list[tuple[str, int]]:
    bucket, _, key = location.removeprefix(_SCHEME).partition("/")
    buckets = _buckets(root)
    if key:
        top = buckets.existing(f"{_SCHEME}{bucket}/{key}")
    else:
        top = buckets.locate(bucket, "any").parent
    found = [top] if top.is_file() else sorted(_shown(top, root / bucket))
    return [
        (f"{_SCHEME}{path.relative_to(root).as_posix()}", path.stat().st_size) for path in found
    ]


def _source(root: Path, source: str) -> Path:
    if source.startswith(_SCHEME):
        return _buckets(root).existing_file(source)
    path = Path(source)
    if not path.is_file():
        from wesemu.cli.failures import Refused

        raise Refused(f"there is no file {source}; only single files are copied")
    return path


def _target(root: Path, target: str, name: str) -> Path:
    if not target.startswith(_SCHEME):
        path = Path(target)
        return path / name if path.is_dir() else path
    bucket, _, key = target.removeprefix(_SCHEME).partition("/")
    if not key or key.endswith("/"):
        key += name
    url = f"{_SCHEME}{bucket}/{key}"
    try:
        return _buckets(root).target(url)
    except BucketNotFound:  # its name is a good one
        (root / bucket).mkdir(parents=True)
        return _buckets(root).target(url)
