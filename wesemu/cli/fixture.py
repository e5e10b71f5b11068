"""`wesemu fixture`: reads with a known truth."""

from pathlib import Path
from typing import Annotated

import typer

from wesemu.cli.options import AsJson


def register(app: typer.Typer) -> None:
    app.command("fixture", rich_help_panel="Data")(fixture)


def fixture(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to write to.")],
    seed: Annotated[int, typer.Option(help="Another seed, another genome.")] = 1,
    length: Annotated[int, typer.Option(help="Length of the reference in bp.")] = 100_000,
    contigs: Annotated[int, typer.Option(help="Number of its sequences.")] = 2,
    depth: Annotated[float, typer.Option(help="Mean depth, duplicates included.")] = 30.0,
    snps: Annotated[
        int | None, typer.Option(help="Number of SNPs.", show_default="one a kb")
    ] = None,
    indels: Annotated[
        int | None, typer.Option(help="Number of indels.", show_default="one every 3 kb")
    ] = None,
    duplicates: Annotated[
        float, typer.Option(help="Share of the pairs that are PCR duplicates.")
    ] = 0.08,
    read_length: Annotated[int, typer.Option(help="Length of a read in bp.")] = 150,
    insert_mean: Annotated[float, typer.Option(help="Mean insert size in bp.")] = 400.0,
    insert_sd: Annotated[float, typer.Option(help="Standard deviation of the insert size.")] = 50.0,
    as_json: AsJson = False,
) -> None:
    """Simulate a reference, a diploid sample and its reads, with the truth to compare with.

    Writes reference.fa, reads_1.fq.gz, reads_2.fq.gz, truth.vcf and fixture.json. The same flags
    give the same text everywhere.
    """
    from dataclasses import asdict

    from wesemu.cli.output import give, give_json, tell
    from wesemu.genomics.simulate import FixtureSettings, write_fixture

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
    told = made.summary
    if as_json:
        give_json(asdict(told))
    else:
        for path in (made.reference, made.reads_1, made.reads_2, made.truth):
            give(str(path))
    tell(
        f"{told.reads:,} reads of {told.read_length} bp, {told.duplicate_reads:,} of them "
        f"duplicates; {told.snps:,} SNPs, {told.indels:,} indels"
    )
