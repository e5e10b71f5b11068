"""`wesemu reference`: reference genomes that jobs name."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from wesemu.cli.options import AsJson, Data

if TYPE_CHECKING:
    from wesemu.genomics.reference import ReferenceStore, ReferenceSummary


Mapper = Literal["bwa", "bwa-mem2", "bwa-mem3"]


def register(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, help="Reference genomes that jobs name.")
    group.command("add")(add)
    group.command("list")(show)
    app.add_typer(group, name="reference", rich_help_panel="Data")


def add(
    name: Annotated[str, typer.Argument(help="What jobs will call it: hg38.", show_default=False)],
    fasta: Annotated[
        Path, typer.Argument(metavar="FILE", help="A FASTA, plain or gzip.", show_default=False)
    ],
    mapper: Annotated[
        Mapper,
        typer.Option(
            help="Which mapper will use it; the index of bwa-mem2 takes 28 bytes of memory a base, "
            "that of bwa-mem3 takes 3."
        ),
    ] = "bwa",
    data: Data = None,
) -> None:
    """Copy a FASTA, with FILE.alt where there is one, into the data directory and index it. A
    server need not run."""
    from wesemu.cli.configuration import check_data
    from wesemu.cli.output import give, tell

    check_data(data)
    tell(f"indexing {fasta} (about an hour for a human genome, a moment for a small one)")
    give(str(_store(data).add(name, fasta, mapper)))


def show(data: Data = None, as_json: AsJson = False) -> None:
    """List the registered references, and whether mappers use ALT contigs of theirs."""
    from wesemu.cli.output import give_json, give_table, tell

    store = _store(data)
    found = [store.describe(name) for name in store.names()]
    if as_json:
        give_json([asdict(each) | {"fasta": str(each.fasta)} for each in found])
    elif found:
        give_table(
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
        tell("no references yet; register one with 'wesemu reference add NAME FILE'")


def describe_alternates(reference: "ReferenceSummary") -> str:
    """Whether mappers treat sequences of it as ALT contigs."""
    return f"{reference.alternates} used" if reference.alternates else "none"


def _store(data: Path | None) -> "ReferenceStore":
    from functools import partial

    from wesemu.cli.configuration import load
    from wesemu.engines.leases import Lender
    from wesemu.genomics.reference import ReferenceStore
    from wesemu.genomics.tools import resolve

    settings = load(data=data)
    root = settings.data
    tools = partial(resolve, settings.tools)
    lend = Lender(root / "leases").lend
    return ReferenceStore(root / "references", root / "cache", tools=tools, lend=lend)
