"""`wesemu doctor`: check the software and the hardware that runs need."""

import platform
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wesemu.cli.output import AsJson, Data

if TYPE_CHECKING:
    from wesemu.settings import Settings

_OLDEST_PYTHON = (3, 11)
_GIBIBYTE = 1 << 30
_LEAST_DISK = 1 * _GIBIBYTE


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """The result of one check. `source` is where `found` comes from, or the remedy."""

    name: str
    found: str
    source: str
    ok: bool = True


def register(app: typer.Typer) -> None:
    app.command("doctor", rich_help_panel="Server")(doctor)


def doctor(
    data: Data = None,
    gpu: Annotated[
        bool, typer.Option("--gpu", help="Check GPUs as well; having none is a failure.")
    ] = False,
    selftest: Annotated[
        bool, typer.Option("--selftest", help="Run a CUDA kernel on each GPU; implies --gpu.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show the versions of Python, Snakemake and the tools, and the resources of this machine.

    Ends with status 1 if something is missing that runs need.
    """
    from wesemu.cli.configuration import load_settings
    from wesemu.cli.output import ExitStatus, print_json, print_note, print_table

    settings = load_settings(data=data)
    checks = [*check_installation(settings.data, settings.tools), _sandbox(settings)]
    if gpu or selftest:
        from wesemu.cli.gpu import check_gpus, check_parabricks
        from wesemu.composition import leased
        from wesemu.runs.data_directory import DataDirectory

        in_use = leased(DataDirectory(settings.data.absolute()).leases)
        checks += check_gpus(settings.node, in_use=in_use)
        checks += check_parabricks(settings.parabricks, settings.data)
    if selftest:
        from wesemu.cli.gpu import run_selftests
        from wesemu.core import pipelines_folder

        checks += run_selftests(settings.node, pipelines_folder())
    if as_json:
        print_json([asdict(check) for check in checks])
    else:
        marks = {True: "ok", False: "MISSING"}
        print_table(
            ("", "FOUND", "FROM", "STATE"),
            [(each.name, each.found, each.source, marks[each.ok]) for each in checks],
        )
    missing = [check.name for check in checks if not check.ok]
    if missing:
        print_note(f"not ready to run workflows: {', '.join(missing)}")
        raise typer.Exit(ExitStatus.FAILED)
    print_note("ready to run workflows")


def check_installation(data: Path, commands: Mapping[str, str]) -> Iterator[HealthCheck]:
    """Run all checks. `data` is the data directory, which may not exist yet; `commands` is the
    setting `tools`."""
    python = Path(sys.executable)
    yield HealthCheck(
        "python", platform.python_version(), str(python), sys.version_info >= _OLDEST_PYTHON
    )
    yield _package("wesemu")
    yield _package("snakemake")
    yield from _tools(commands)
    yield from _machine(data)
    yield from _references(data)


def _references(data: Path) -> Iterator[HealthCheck]:
    from wesemu.cli.data import describe_alternates
    from wesemu.genomics.reference import ReferenceStore

    store = ReferenceStore(data / "references", data / "cache")
    for name in store.names():
        found = store.describe(name)
        indexes = " and ".join(found.indexes) or "no mapper yet"
        text = f"ALT contigs: {describe_alternates(found)}; indexed for {indexes}"
        yield HealthCheck(f"reference {name}", text, str(found.fasta))


def _sandbox(settings: "Settings") -> HealthCheck:
    from wesemu.composition import find_sandbox
    from wesemu.errors import EngineFault

    try:
        kind = find_sandbox(settings).kind
    except EngineFault as fault:
        return HealthCheck("sandbox", "-", fault.message, ok=False)
    return HealthCheck("sandbox", kind, "for users' own workflows")


def _package(name: str) -> HealthCheck:
    from importlib import metadata

    try:
        return HealthCheck(name, metadata.version(name), "Python package")
    except metadata.PackageNotFoundError:
        return HealthCheck(name, "-", f"pip install {name}", ok=False)


def _tools(commands: Mapping[str, str]) -> Iterator[HealthCheck]:
    from wesemu.errors import ToolMissing
    from wesemu.genomics.tools import installed_tools

    try:
        tools = installed_tools(commands)
    except ToolMissing as error:
        yield HealthCheck("tools", "-", error.message, ok=False)
        return
    for tool in tools:
        source = tool.command[0]
        if tool.source == "wheel":
            wheel = _package({"bwa": "pybwa", "bwa-mem3": "bwa-mem3"}.get(tool.name, "pysam"))
            source = f"the wheel of {wheel.name} {wheel.found}"
        if tool.note:
            source += f". {tool.note}"
        yield HealthCheck(tool.name, tool.version, source)


def _machine(data: Path) -> Iterator[HealthCheck]:
    from wesemu.node import detect

    node = detect()
    yield HealthCheck("cores", str(node.cores), "usable by this process")
    yield HealthCheck("memory", f"{node.memory_mb / 1024:.1f} GiB", "this machine or its container")
    place = next(path for path in (data, *data.parents) if path.is_dir())
    free = shutil.disk_usage(place).free
    yield HealthCheck("disk", f"{free / _GIBIBYTE:.1f} GiB free", str(place), free >= _LEAST_DISK)
