"""`wesemu fixture`, `reference` and `bucket`: simulated reads, reference genomes, buckets.

The verbs work on the data directory. They need no server, and a server may run meanwhile. Only
`bucket put` and `bucket get` talk to a server.
"""

import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from wesemu.cli.output import (
    DEFAULT_SERVER,
    AsJson,
    CommandRefused,
    Data,
    ExitStatus,
    Overwrite,
    Server,
    Token,
    parse_path,
    path_argument,
    target_argument,
)
from wesemu.errors import BucketNotFound

if TYPE_CHECKING:
    from wesemu.client import AsyncClient
    from wesemu.genomics.reference import ReferenceStore, ReferenceSummary
    from wesemu.storage.buckets import Buckets


def register(app: typer.Typer) -> None:
    app.command("fixture", rich_help_panel="Data")(fixture)
    references = typer.Typer(no_args_is_help=True, help="Reference genomes for jobs.")
    references.command("add")(add_reference)
    references.command("index")(index_reference)
    references.command("list")(list_references)
    app.add_typer(references, name="reference", rich_help_panel="Data")
    buckets = typer.Typer(no_args_is_help=True, help="Buckets: folders in the data directory.")
    buckets.command("ls")(list_buckets)
    buckets.command("cp")(copy_object)
    buckets.command("rm")(remove_object)
    buckets.command("put")(put_object)
    buckets.command("get")(get_object)
    app.add_typer(buckets, name="bucket", rich_help_panel="Data")


# --- `wesemu fixture` ---


def fixture(
    directory: Annotated[Path, path_argument(metavar="DIR", help="The folder to write to.")],
    seed: Annotated[int, typer.Option(help="Seed of the random numbers.")] = 1,
    length: Annotated[int, typer.Option(help="Length of the reference in bp.")] = 100_000,
    contigs: Annotated[int, typer.Option(help="Number of sequences in the reference.")] = 2,
    depth: Annotated[float, typer.Option(help="Mean depth, duplicates included.")] = 30.0,
    snps: Annotated[
        int | None, typer.Option(help="Number of SNPs.", show_default="one per kb")
    ] = None,
    indels: Annotated[
        int | None, typer.Option(help="Number of indels.", show_default="one per 3 kb")
    ] = None,
    duplicates: Annotated[
        float, typer.Option(help="Fraction of pairs that are PCR duplicates.")
    ] = 0.08,
    read_length: Annotated[int, typer.Option(help="Length of a read in bp.")] = 150,
    insert_mean: Annotated[float, typer.Option(help="Mean insert size in bp.")] = 400.0,
    insert_sd: Annotated[float, typer.Option(help="Standard deviation of the insert size.")] = 50.0,
    as_json: AsJson = False,
) -> None:
    """Simulate a reference, a diploid sample, its reads and its true variants.

    Writes reference.fa, reads_1.fq.gz, reads_2.fq.gz, truth.vcf and fixture.json. The same flags
    give the same content on every machine.
    """
    from wesemu.cli.output import print_json, print_note, print_result
    from wesemu.genomics.simulate.fixture import FixtureSettings, write_fixture
    from wesemu.util.text import name_full_disk

    with name_full_disk(directory):
        made = write_fixture(
            directory,
            FixtureSettings(
                seed=seed,
                length=length,
                contigs=contigs,
                depth=depth,
                snps=snps,
                indels=indels,
                duplicates=duplicates,
                read_length=read_length,
                insert_mean=insert_mean,
                insert_sd=insert_sd,
            ),
        )
    summary = made.summary
    if as_json:
        print_json(asdict(summary))
    else:
        for path in (made.reference, made.reads_1, made.reads_2, made.truth):
            print_result(str(path))
    print_note(
        f"{summary.reads:,} reads of {summary.read_length} bp, {summary.duplicate_reads:,} of them "
        f"duplicates; {summary.snps:,} SNPs, {summary.indels:,} indels"
    )


# --- `wesemu reference` ---

Mapper = Literal["bwa", "bwa-mem2", "bwa-mem3"]


def add_reference(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="What jobs will call it: hg38.", show_default=False),
    ],
    fasta: Annotated[
        str, typer.Argument(metavar="FILE", help="A FASTA, plain or gzip.", show_default=False)
    ],
    mapper: Annotated[
        Mapper,
        typer.Option(
            help="Which mapper will use it; the index of bwa-mem2 takes 28 bytes of memory a base, "
            "that of bwa-mem3 takes 3."
        ),
    ] = "bwa",
    data: Data = None,
    server: Annotated[
        str | None,
        typer.Option(
            help="Send the FASTA to this server, instead of the data directory.",
            metavar="URL",
            show_default=False,
        ),
    ] = None,
    token: Token = None,
) -> None:
    """Copy a FASTA, and FILE.alt if it exists, into the data directory and index it.

    With --server, send the FASTA to a running server, or name an oss:// location there.
    """
    from wesemu.cli.configuration import check_data
    from wesemu.cli.output import print_note, print_result

    if server is not None:
        _add_to_server(server, token, name, fasta, mapper)
        return
    source = parse_path(fasta)
    check_data(data)
    if source.exists():
        print_note(f"indexing {fasta} (about an hour for a human genome, seconds for a small one)")
    print_result(str(_store(data).add(name, source, mapper)))
    if data is None:
        _compare_with_server()


def _compare_with_server() -> None:
    """Print a note if a server answers that uses another data directory."""
    from wesemu.cli.configuration import load_settings
    from wesemu.cli.output import print_note
    from wesemu.cli.remote import call
    from wesemu.client.transport import text

    server = os.environ.get("WESEMU_SERVER", DEFAULT_SERVER)
    try:
        data = text(call(server, None, lambda client: client.control.info()), "data")
    except CommandRefused:  # no server, or one that refuses
        return
    own = load_settings().data
    if data and Path(data).resolve() != own.resolve():
        print_note(
            f"the server at {server} uses {data}, not {own}: it does not have this reference; "
            f"--server {server} sends it there"
        )


def _add_to_server(server: str, token: str | None, name: str, fasta: str, mapper: str) -> None:
    from wesemu.cli.output import print_result, progress_display
    from wesemu.cli.remote import call
    from wesemu.client.transport import text

    source: Path | str = fasta if fasta.startswith(_SCHEME) else parse_path(fasta)
    if isinstance(source, Path) and not source.is_file():
        raise CommandRefused(f"there is no file {source}", ExitStatus.USAGE)

    async def act(client: "AsyncClient") -> str:
        with progress_display() as display:
            added = await client.control.add_reference(
                name,
                source,
                mapper=mapper,
                progress=lambda each: display.show(name, text(each, "state"), 0, 0),
            )
        return text(added, "name")

    print_result(call(server, token, act, {"location": "FILE", "name": "NAME"}))


def index_reference(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A registered reference.", show_default=False)
    ],
    mapper: Annotated[Mapper, typer.Option(help="The mapper that will use it.")] = "bwa",
    data: Data = None,
) -> None:
    """Index a registered reference for another mapper; an index that exists stays."""
    from wesemu.cli.configuration import check_data
    from wesemu.cli.output import print_note, print_result

    check_data(data)
    store = _store(data)
    fasta = store.find(name)
    if fasta is None:
        known = ", ".join(store.names()) or "none yet"
        raise CommandRefused(f"there is no reference {name!r}; registered: {known}")
    print_note(f"indexing {fasta} for {mapper}")
    print_result(str(store.add(fasta.parent.name, fasta, mapper)))


def list_references(data: Data = None, as_json: AsJson = False) -> None:
    """List the registered references, their indexes and ALT contigs."""
    from wesemu.cli.configuration import load_settings
    from wesemu.cli.output import print_json, print_note, print_table
    from wesemu.genomics.reference import ReferenceStore

    root = load_settings(data=data).data
    store = ReferenceStore(root / "references", root / "cache")
    found = [store.describe(name) for name in store.names()]
    if as_json:
        print_json([asdict(each) | {"fasta": str(each.fasta)} for each in found])
    elif found:
        print_table(
            ("NAME", "SEQUENCES", "ALT CONTIGS", "INDEXES", "FASTA"),
            [
                (
                    each.name,
                    "?" if each.sequences is None else str(each.sequences),
                    describe_alternates(each),
                    ", ".join(each.indexes) or "none",
                    str(each.fasta),
                )
                for each in found
            ],
        )
    else:
        print_note("no references yet; register one with 'wesemu reference add NAME FILE'")


def describe_alternates(reference: "ReferenceSummary") -> str:
    """Return the number of sequences that mappers treat as ALT contigs, as text."""
    return f"{reference.alternates} used" if reference.alternates else "none"


def _store(data: Path | None) -> "ReferenceStore":
    from functools import partial

    from wesemu.cli.configuration import load_settings
    from wesemu.engines.leases import SystemLeases
    from wesemu.genomics.reference import ReferenceStore
    from wesemu.genomics.tools import resolve

    settings = load_settings(data=data)
    root = settings.data
    tools = partial(resolve, settings.tools)
    lease = SystemLeases(root / "leases").lease
    return ReferenceStore(root / "references", root / "cache", tools=tools, lease=lease)


# --- `wesemu bucket` ---

_SCHEME = "oss://"

ObjectLocation = Annotated[
    str, typer.Argument(metavar="LOCATION", help="oss://BUCKET/KEY.", show_default=False)
]


def list_buckets(
    location: Annotated[
        str,
        typer.Argument(
            metavar="LOCATION", help="oss://BUCKET or oss://BUCKET/KEY.", show_default="all buckets"
        ),
    ] = "",
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """List the buckets, or all files of a bucket or folder."""
    from wesemu.cli.output import print_json, print_result

    root = _root(data)
    if not location:
        names = _buckets(root).names()
        if as_json:
            print_json([{"bucket": name} for name in names])
        for name in () if as_json else names:
            print_result(f"{_SCHEME}{name}")
        return
    files = _files(root, location)
    if as_json:
        print_json([{"location": place, "size": size} for place, size in files])
    for place, size in () if as_json else files:
        print_result(f"{size:>14,}  {place}")


def copy_object(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A file, or oss://BUCKET/KEY.")],
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET", help="A file or folder, or oss://BUCKET/KEY, in a new bucket too."
        ),
    ],
    overwrite: Overwrite = False,
    data: Data = None,
) -> None:
    """Copy a file to a bucket, from a bucket, or between buckets."""
    from wesemu.cli.output import print_result, refuse_existing
    from wesemu.runs.run_directory import replaceable
    from wesemu.util.text import name_full_disk

    root = _root(data)
    if target.startswith(_SCHEME):
        from wesemu.cli.configuration import check_data

        check_data(data)
    file = _source(root, source)
    place = _target(root, target, file.name)
    if not target.startswith(_SCHEME) and place != Path(target):  # the target is a folder
        refuse_existing(place, overwrite=overwrite)
    place.parent.mkdir(parents=True, exist_ok=True)
    place = replaceable(place)
    # a short name, because the name of the file may have the maximum length
    temporary = place.with_name(f".wesemu-{os.getpid()}.part")
    try:
        with name_full_disk(place):
            shutil.copyfile(file, temporary)
        temporary.replace(place)
    finally:
        temporary.unlink(missing_ok=True)
    print_result(str(place))


def remove_object(
    location: Annotated[
        str,
        typer.Argument(
            metavar="LOCATION", help="oss://BUCKET/KEY, or with --recursive a folder or bucket."
        ),
    ],
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Remove a folder, or a whole bucket.")
    ] = False,
    data: Data = None,
) -> None:
    """Remove a file from a bucket, or a folder or bucket with all files."""
    from wesemu.cli.configuration import check_data
    from wesemu.cli.output import print_note

    check_data(data)
    root = _root(data)
    bucket, key = _bucket_and_key(location)
    buckets = _buckets(root)
    path = buckets.existing(f"{_SCHEME}{bucket}/{key}") if key else buckets.folder(bucket)
    if not path.is_dir() or path.is_symlink():
        path.unlink()
        print_note(f"removed {location}")
        return
    if not recursive:
        raise CommandRefused(
            f"{location} is a {'folder' if key else 'bucket'}; --recursive removes it with all "
            "its files",
            ExitStatus.USAGE,
        )
    files = sum(1 for _ in _visible_files(path, root / bucket))
    shutil.rmtree(path)
    print_note(f"removed {location} with {files} {'file' if files == 1 else 'files'}")


def put_object(
    file: Annotated[
        Path, path_argument(metavar="FILE", help="The file to send.", show_default=False)
    ],
    location: ObjectLocation,
    server: Server = DEFAULT_SERVER,
    token: Token = None,
) -> None:
    """Send a file to a bucket of a server, which is created if it is missing."""
    from wesemu.cli.output import print_result
    from wesemu.cli.remote import call

    if not file.is_file():
        raise CommandRefused(f"there is no file {file}", ExitStatus.USAGE)
    bucket, key = _bucket_and_key(location)

    async def act(client: "AsyncClient") -> str:
        target = client.bucket(bucket)
        await target.create()
        return await target.put(f"{key}{file.name}" if not key or key.endswith("/") else key, file)

    print_result(call(server, token, act))


def get_object(
    location: ObjectLocation,
    target: Annotated[
        Path,
        target_argument(
            metavar="TARGET", help="The file to write, or a folder.", show_default="here"
        ),
    ] = Path(),
    overwrite: Overwrite = False,
    server: Server = DEFAULT_SERVER,
    token: Token = None,
) -> None:
    """Download a file from a bucket of a server."""
    from wesemu.cli.output import print_result, refuse_existing
    from wesemu.cli.remote import call
    from wesemu.runs.run_directory import safe_name

    bucket, key = _bucket_and_key(location)
    if not key:
        raise CommandRefused(f"{location} is a bucket; name a file in it", ExitStatus.USAGE)

    if target.is_dir():
        target /= safe_name(key.rstrip("/").rpartition("/")[2])
        refuse_existing(target, overwrite=overwrite)
    file = target

    async def act(client: "AsyncClient") -> Path:
        return await client.bucket(bucket).download(key, file)

    print_result(str(call(server, token, act)))


def _bucket_and_key(location: str) -> tuple[str, str]:
    """Split oss://BUCKET/KEY; the key may be "". Raise CommandRefused for anything else."""
    bucket, _, key = location.removeprefix(_SCHEME).partition("/")
    if not location.startswith(_SCHEME) or not bucket:
        raise CommandRefused(f"{location!r} is not oss://BUCKET/KEY", ExitStatus.USAGE)
    return bucket, key


def _root(data: Path | None) -> Path:
    from wesemu.cli.configuration import load_settings

    return load_settings(data=data).data / "buckets"


def _visible_files(top: Path, bucket: Path) -> Iterator[Path]:
    from wesemu.storage.buckets import is_reserved

    for path in top.rglob("*"):
        if path.is_file() and not is_reserved(path.relative_to(bucket).as_posix()):
            yield path


def _buckets(root: Path) -> "Buckets":
    from wesemu.storage.buckets import Buckets

    return Buckets(root)


def _files(root: Path, location: str) -> list[tuple[str, int]]:
    bucket, _, key = location.removeprefix(_SCHEME).partition("/")
    buckets = _buckets(root)
    top = buckets.existing(f"{_SCHEME}{bucket}/{key}") if key else buckets.folder(bucket)
    found = [top] if top.is_file() else sorted(_visible_files(top, root / bucket))
    names = [f"{_SCHEME}{path.relative_to(root).as_posix()}" for path in found]
    return [(name, path.stat().st_size) for name, path in zip(names, found, strict=True)]


def _source(root: Path, source: str) -> Path:
    if source.startswith(_SCHEME):
        return _buckets(root).existing_file(source)
    path = parse_path(source)
    if not path.is_file():
        raise CommandRefused(f"there is no file {source}; the verb copies single files only")
    return path


def _target(root: Path, target: str, name: str) -> Path:
    if not target.startswith(_SCHEME):
        path = parse_path(target)
        return path / name if target.endswith("/") or path.is_dir() else path
    bucket, _, key = target.removeprefix(_SCHEME).partition("/")
    if not key or key.endswith("/"):
        key += name
    url = f"{_SCHEME}{bucket}/{key}"
    try:
        return _buckets(root).target(url)
    except BucketNotFound:  # the name is valid: create the bucket
        (root / bucket).mkdir(parents=True)
        return _buckets(root).target(url)
