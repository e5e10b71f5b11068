"""`wesemu demo`: see it work, on this machine, in half a minute."""

import asyncio
import shutil
import signal
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from wesemu.demo.run import CudaNode, DemoResult


class DemoNode(StrEnum):
    """Where the demo's runs are carried out."""

    cpu = "cpu"
    cuda = "cuda"


def register(app: typer.Typer) -> None:
    app.command("demo", rich_help_panel="Server")(demo)


def demo(
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            help="The data directory to use.",
            show_default="a new one among the temporary files",
            metavar="DIR",
        ),
    ] = None,
    keep: Annotated[
        bool, typer.Option(help="Keep the new directory, to look at the results.")
    ] = True,
    node: Annotated[
        DemoNode, typer.Option(help="Where the runs are carried out; cuda needs a GPU.")
    ] = DemoNode.cpu,
) -> None:
    """Map simulated reads and call variants through both APIs; check it all against the truth.

    Ends with status 0 only if everything is right.
    """
    from wesemu.cli.output import ExitStatus
    from wesemu.runs.data_directory import DataDirectory

    gpus = _cuda_node() if node is DemoNode.cuda else None
    directory = Path(tempfile.mkdtemp(prefix="wesemu-demo-")) if data is None else data.absolute()
    DataDirectory(directory).create()
    passing = data is None and not keep
    try:
        outcome = asyncio.run(_perform(directory, gpus))
    except KeyboardInterrupt:
        passing = data is None
        raise
    finally:
        if passing:
            shutil.rmtree(directory, ignore_errors=True)
    _report(outcome, None if passing else directory)
    if not outcome.ok:
        raise typer.Exit(ExitStatus.FAILED)


def _cuda_node() -> "CudaNode":
    from wesemu.cli.configuration import load
    from wesemu.cli.gpu import cuda_node

    return cuda_node(load())


async def _perform(directory: Path, node: "CudaNode | None") -> "DemoResult":
    """As `perform`; SIGTERM is taken as Ctrl-C is."""
    from wesemu.cli.output import board, print_note
    from wesemu.demo.run import perform

    print_note("simulating reads, starting a server, sending mapping and wgs by AGS and by WES")
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        with board() as progress:
            return await perform(directory, progress.show, node)
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


def _report(outcome: "DemoResult", directory: Path | None) -> None:
    from wesemu.cli.output import print_note, print_result
    from wesemu.demo.checks import BUCKET

    truth = outcome.fixture.summary
    print_result(
        f"{truth.reads:,} reads of a simulated diploid genome of {sum(truth.contigs.values()):,} "
        f"bp: {truth.duplicate_reads:,} are duplicates, {truth.snps} SNPs, {truth.indels} indels"
    )
    for check in outcome.checks:
        print_result(f"  {'ok   ' if check.ok else 'WRONG'}  {check.name:<16} {check.told}")
    wrong = [check.name for check in outcome.checks if not check.ok]
    if directory is not None:
        print_result(f"results  {directory / 'buckets' / BUCKET}  (ags/, wes/, truth.vcf)")
        print_result(f"server   {outcome.server}  (again: wesemu serve --data {directory})")
    if wrong:
        print_note(f"wesemu: the demo found something wrong: {', '.join(wrong)}")
    else:
        print_result(f"all {len(outcome.checks)} checks passed in {outcome.seconds:.1f} s")
