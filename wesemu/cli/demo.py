"""`wesemu demo`: run both pipelines on simulated reads and check the results."""

import asyncio
import shutil
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from wesemu.cli.output import path_option

if TYPE_CHECKING:
    from wesemu.demo.run import CudaNode, DemoResult


def register(app: typer.Typer) -> None:
    app.command("demo", rich_help_panel="Server")(demo)


def demo(
    data: Annotated[
        Path | None,
        path_option(
            "--data",
            help="The data directory to use.",
            show_default="a new temporary one",
            metavar="DIR",
        ),
    ] = None,
    keep: Annotated[
        bool, typer.Option(help="Keep the temporary directory with the results.")
    ] = True,
    node: Annotated[
        Literal["cpu", "cuda"], typer.Option(help="Node of the runs; cuda needs a GPU.")
    ] = "cpu",
    show: Annotated[
        bool,
        typer.Option("--open", help="Then serve the results and open their pages in a browser."),
    ] = False,
) -> None:
    """Map simulated reads and call variants through both APIs; check all results.

    Ends with status 0 only if every check passes.
    """
    from wesemu.cli.output import ExitStatus
    from wesemu.runs.data_directory import DataDirectory

    gpus = _cuda_node() if node == "cuda" else None
    directory = Path(tempfile.mkdtemp(prefix="wesemu-demo-")) if data is None else data.absolute()
    DataDirectory(directory).create()
    temporary = data is None and not keep
    try:
        result = asyncio.run(_run(directory, gpus))
        kept = None if temporary else directory
        _report(result, kept, stopped=not show)
        if show:
            asyncio.run(_serve(directory, gpus))
            _report_stop(kept)
    except KeyboardInterrupt:
        temporary = data is None  # nothing to look at after Ctrl-C
        raise
    finally:
        if temporary:
            shutil.rmtree(directory, ignore_errors=True)
    if not result.ok:
        raise typer.Exit(ExitStatus.FAILED)


def _cuda_node() -> "CudaNode":
    from wesemu.cli.configuration import load_settings
    from wesemu.cli.gpu import cuda_node

    return cuda_node(load_settings())


async def _run(directory: Path, node: "CudaNode | None") -> "DemoResult":
    """Run the demo. SIGTERM ends it like Ctrl-C."""
    from wesemu.cli.output import print_note, progress_display
    from wesemu.demo.run import run_demo

    print_note("simulating reads, starting a server, running mapping and wgs through AGS and WES")
    _cancel_on_sigterm()
    try:
        with progress_display() as progress:
            return await run_demo(directory, progress.show, node)
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


async def _serve(directory: Path, node: "CudaNode | None") -> None:
    """Serve the results until Ctrl-C or SIGTERM, and open the dashboard in a browser."""
    import threading
    import webbrowser

    from wesemu.cli.output import print_result
    from wesemu.demo.run import server_settings, serving

    _cancel_on_sigterm()
    try:
        async with serving(directory, server_settings(node)) as server:
            page = f"{server}/ui/"
            print_result(f"page     {page}  (Ctrl-C stops the server)")
            # a daemon: a browser of the terminal blocks until the user quits it
            threading.Thread(
                target=webbrowser.open, args=[page], name="browser", daemon=True
            ).start()
            await asyncio.Event().wait()
    except asyncio.CancelledError:
        return


def _cancel_on_sigterm() -> None:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)


def _report(result: "DemoResult", directory: Path | None, *, stopped: bool) -> None:
    from wesemu.cli.output import print_note, print_result
    from wesemu.demo.checks import BUCKET

    truth = result.fixture.summary
    print_result(
        f"{truth.reads:,} reads of a simulated diploid genome of {sum(truth.contigs.values()):,} "
        f"bp: {truth.duplicate_reads:,} are duplicates, {truth.snps} SNPs, {truth.indels} indels"
    )
    for check in result.checks:
        print_result(f"  {'ok   ' if check.ok else 'WRONG'}  {check.name:<16} {check.detail}")
    wrong = [check.name for check in result.checks if not check.ok]
    if directory is not None:
        print_result(f"results  {directory / 'buckets' / BUCKET}  (ags/, wes/, truth.vcf)")
    if stopped:
        _report_stop(directory)
    if wrong:
        print_note(f"wesemu: these checks failed: {', '.join(wrong)}")
    else:
        print_result(f"all {len(result.checks)} checks passed in {result.seconds:.1f} s")


def _report_stop(directory: Path | None) -> None:
    import shlex

    from wesemu.cli.output import print_result

    if directory is not None:
        data = shlex.quote(str(directory))
        print_result(f"server   has stopped; start it again: wesemu serve --data {data}")
