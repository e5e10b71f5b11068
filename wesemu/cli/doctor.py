"""`wesemu doctor`: is everything there that real runs need?"""

import platform
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wesemu.cli.options import AsJson, Data

if TYPE_CHECKING:
    from wesemu.settings import Settings

_OLDEST_PYTHON = (3, 11)
_GIBIBYTE = 1 << 30
_LITTLE_DISK = 1 * _GIBIBYTE


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: `source` says where it comes from."""

    name: str
    found: str
    source: str
    ok: bool = True


def register(app: typer.Typer) -> None:
    app.command("doctor", rich_help_panel="Server")(doctor)


def doctor(
    data: Data = None,
    gpu: Annotated[
        bool, typer.Option("--gpu", help="Look at the GPUs, too; having none counts as missing.")
    ] = False,
    selftest: Annotated[
        bool, typer.Option("--selftest", help="Run a CUDA kernel on each GPU; implies --gpu.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show the versions of Python, the engine and the tools, and what this machine has.

    Ends with status 1 if something is missing that runs need.
    """
    from wesemu.cli.configuration import load
    from wesemu.cli.failures import ExitStatus
    from wesemu.cli.output import give_json, give_table, tell

    settings = load(data=data)
    findings = [*examine(settings.data, settings.tools), _sandbox(settings)]
    if gpu or selftest:
        from wesemu.cli.doctor_gpu import examine_gpus, examine_parabricks
        from wesemu.datadir import DataDirectory
        from wesemu.wiring.gpus import leased

        ours = leased(DataDirectory(settings.data.absolute()).leases)
        findings += examine_gpus(settings.node, ours=ours)
        findings += examine_parabricks(settings.parabricks, settings.data)
    if selftest:
        from wesemu.cli.doctor_gpu import selftest as try_gpus
        from wesemu.wiring.core import pipelines_folder

        findings += try_gpus(settings.node, pipelines_folder())
    if as_json:
        give_json([asdict(finding) for finding in findings])
    else:
        marks = {True: "ok", False: "MISSING"}
        give_table(
            ("", "FOUND", "FROM", "STATE"),
            [(each.name, each.found, each.source, marks[each.ok]) for each in findings],
        )
    missing = [finding.name for finding in findings if not finding.ok]
    if missing:
        tell(f"not ready to run workflows: {', '.join(missing)}")
        raise typer.Exit(ExitStatus.FAILED)
    tell("ready to run workflows")


def examine(data: Path, commands: Mapping[str, str]) -> Iterator[Finding]:
    """Look at everything; `data` is the data directory, which need not exist yet, `commands` is
    the setting `tools`."""
    python = Path(sys.executable)
    yield Finding(
        "python", platform.python_version(), str(python), sys.version_info >= _OLDEST_PYTHON
    )
    yield _package("wesemu")
    yield _package("snakemake")
    yield from _tools(commands)
    yield from _machine(data)
    yield from _references(data)


def _references(data: Path) -> Iterator[Finding]:
    from wesemu.cli.references import describe_alternates
    from wesemu.genomics.reference import ReferenceStore

    store = ReferenceStore(data / "references", data / "cache")
    for name in store.names():
        found = store.describe(name)
        indexes = " and ".join(found.indexes) or "no mapper yet"
        text = f"ALT contigs: {describe_alternates(found)}; indexed for {indexes}"
        yield Finding(f"reference {name}", text, str(found.fasta))


def _sandbox(settings: "Settings") -> Finding:
    from wesemu.errors import EngineFault
    from wesemu.wiring.engines import find_sandbox

    try:
        kind = find_sandbox(settings).kind
    except EngineFault as fault:
        return Finding("sandbox", "-", fault.message, ok=False)
    return Finding("sandbox", kind, "for users' own workflows")


def _package(name: str) -> Finding:
    from importlib import metadata

    try:
        return Finding(name, metadata.version(name), "Python package")
    except metadata.PackageNotFoundError:
        return Finding(name, "-", f"pip install {name}", ok=False)


def _tools(commands: Mapping[str, str]) -> Iterator[Finding]:
    from wesemu.errors import ToolMissing
    from wesemu.genomics.inventory import found_tools

    try:
        tools = found_tools(commands)
    except ToolMissing as error:
        yield Finding("tools", "-", error.message, ok=False)
        return
    for tool in tools:
        source = tool.command[0]
        if tool.source == "wheel":
            wheel = _package({"bwa": "pybwa", "bwa-mem3": "bwa-mem3"}.get(tool.name, "pysam"))
            source = f"the wheel of {wheel.name} {wheel.found}"
        if tool.note:
            source += f". {tool.note}"
        yield Finding(tool.name, tool.version, source)


def _machine(data: Path) -> Iterator[Finding]:
    from wesemu.nodes import detect

    node = detect()
    yield Finding("cores", str(node.cores), "this process may use them")
    yield Finding("memory", f"{node.memory_mb / 1024:.1f} GiB", "this machine or its container")
    place = next(path for path in (data, *data.parents) if path.is_dir())
    free = shutil.disk_usage(place).free
    yield Finding("disk", f"{free / _GIBIBYTE:.1f} GiB free", str(place), free >= _LITTLE_DISK)
