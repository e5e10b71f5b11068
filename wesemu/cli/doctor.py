"""`wesemu doctor`, `ready` and `info`: check what runs need here, and what a server has."""

import os
import platform
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from wesemu.cli.configuration import ConfigFile, configuration_file
from wesemu.cli.output import DEFAULT_SERVER, AsJson, Data, Server, Token
from wesemu.util.text import os_sentence

if TYPE_CHECKING:
    from wesemu.settings import Settings

_OLDEST_PYTHON = (3, 11)
_GIBIBYTE = 1 << 30
_LEAST_DISK = 1 * _GIBIBYTE


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """The result of one check. `source` is where `found` comes from, or the remedy.

    `ok` is False if runs need the thing and it is missing. `check` means that runs are possible,
    but what was found may surprise the user. `absent`: an optional thing is not there.
    """

    name: str
    found: str
    source: str
    ok: bool = True
    check: bool = False
    absent: bool = False

    @property
    def state(self) -> Literal["ok", "CHECK", "MISSING", "-"]:
        """The state in the table."""
        if not self.ok:
            return "MISSING"
        if self.check:
            return "CHECK"
        return "-" if self.absent else "ok"


def register(app: typer.Typer) -> None:
    for verb in (doctor, ready, info):
        app.command(rich_help_panel="Server")(verb)


def doctor(
    data: Data = None,
    gpu: Annotated[
        bool, typer.Option("--gpu", help="Check GPUs as well; having none is a failure.")
    ] = False,
    selftest: Annotated[
        bool, typer.Option("--selftest", help="Run a CUDA kernel on each GPU; implies --gpu.")
    ] = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
    server: Server = DEFAULT_SERVER,
    token: Token = None,
) -> None:
    """Show versions of engines and tools, resources, settings, and whether a server answers.

    Ends with status 1 if something is missing that runs need.
    """
    from wesemu.cli.configuration import load_settings
    from wesemu.cli.output import ExitStatus, print_json, print_note, print_table

    settings = load_settings(data=data)
    checks = [*check_installation(settings.data, settings.tools)]
    checks += [_data_directory(settings), _open_files(), _sandbox(settings)]
    checks += check_extras()
    checks += [_configuration(), _credentials(settings), _server(settings, server, token)]
    if gpu or selftest:
        from wesemu.cli.gpu import check_gpus, check_parabricks
        from wesemu.composition import leased
        from wesemu.runs.data_directory import DataDirectory

        in_use = leased(DataDirectory(settings.data).leases)
        checks += check_gpus(settings.node, in_use=in_use)
        checks += check_parabricks(settings.parabricks, settings.data)
    if selftest:
        from wesemu.cli.gpu import run_selftests
        from wesemu.core import pipelines_folder

        checks += run_selftests(settings.node, pipelines_folder())
    if as_json:
        print_json([asdict(check) for check in checks])
    else:
        print_table(
            ("", "FOUND", "FROM", "STATE"),
            [(each.name, each.found, each.source, each.state) for each in checks],
        )
    missing = [check.name for check in checks if not check.ok]
    if missing:
        print_note(f"not ready to run workflows: {', '.join(missing)}")
        raise typer.Exit(ExitStatus.FAILED)
    unexpected = [check.name for check in checks if check.check]
    also = f"; check: {', '.join(unexpected)}" if unexpected else ""
    print_note(f"ready to run workflows{also}")


def check_installation(data: Path, commands: Mapping[str, str]) -> Iterator[HealthCheck]:
    """Check Python, wesemu, Snakemake, the tools, this machine and the references.

    `data` is the data directory, which may not exist yet; `commands` is the setting `tools`.
    """
    python = Path(sys.executable)
    yield HealthCheck(
        "python", platform.python_version(), str(python), sys.version_info >= _OLDEST_PYTHON
    )
    yield _package("wesemu")
    yield _package("snakemake")
    yield from _tools(commands)
    yield from _machine(data)
    yield from _references(data)


_EXTRAS = {
    "crate": "rocrate",
    "cwl": "cwltool",
    "wdl": "miniwdl",
    "oidc": "PyJWT",
    "reports": "multiqc",
    "s3": "boto3",
    "oss": "oss2",
    "cuda": "numba-cuda",
    "slurm": "snakemake-executor-plugin-slurm",
}
"""The main package of each extra of wesemu that adds a feature."""


def check_extras() -> Iterator[HealthCheck]:
    """Show which extras are installed. None of them is needed."""
    for extra, package in _EXTRAS.items():
        found = _package(package)
        if found.ok:
            yield HealthCheck(f"extra {extra}", found.found, package)
        else:
            remedy = f"optional: pip install 'wesemu[{extra}]'"
            yield HealthCheck(f"extra {extra}", "-", remedy, absent=True)


def _configuration() -> HealthCheck:
    file = configuration_file()
    present = file.is_file()
    found = str(file.absolute()) if present else "none"
    variables = [name for name in sorted(os.environ) if name.startswith("WESEMU_")]
    source = f"variables: {', '.join(variables)}" if variables else "no variables"
    return HealthCheck("configuration", found, source, absent=not present)


def _credentials(settings: "Settings") -> HealthCheck:
    auth = settings.auth
    kinds = {
        f"{len(auth.ags_keys)} access keys": auth.ags_keys,
        f"{len(auth.tokens)} tokens": auth.tokens,
        "OpenID Connect": auth.oidc.issuer,
        "an admin token": auth.admin_token,
    }
    found = ", ".join(kind for kind, given in kinds.items() if given)
    return HealthCheck("credentials", found or "none", "settings auth.*", absent=not found)


def _server(settings: "Settings", server: str, token: str | None) -> HealthCheck:
    """Compare the data directory of the running server with that of this command."""
    from wesemu.cli.output import CommandRefused, ExitStatus
    from wesemu.cli.remote import call

    try:
        facts = call(server, token, lambda client: client.control.info())
    except CommandRefused as error:
        if error.status is ExitStatus.UNREACHABLE:
            return HealthCheck("server", "-", error.message, absent=True)
        return HealthCheck("server", "refuses", f"{server}; {error.message}", check=True)
    data = str(facts.get("data", ""))
    same = Path(data).resolve() == settings.data
    place = "its data is this directory" if same else f"OTHER DATA: {data}, not {settings.data}"
    version = f"{facts.get('version')} answers"
    return HealthCheck("server", version, f"{server}; {place}", check=not same)


def ready(
    wait: Annotated[
        str | None,
        typer.Option(
            help="Wait for the server, but no longer than this: 30s, 2m.", metavar="LENGTH"
        ),
    ] = None,
    server: Annotated[
        str | None,
        typer.Option(
            envvar="WESEMU_SERVER",
            help="Address of the server.",
            metavar="URL",
            show_default="from the settings host, port and socket",
        ),
    ] = None,
    config: ConfigFile = None,
) -> None:
    """Check whether a server can start runs. Needs no credentials.

    Ends with status 1 if the server cannot, with the reasons, and with 3 if no server answers.
    """
    from datetime import timedelta

    from wesemu.cli.admin import parse_length
    from wesemu.cli.configuration import load_settings
    from wesemu.cli.output import CommandRefused, ExitStatus, print_result
    from wesemu.cli.remote import call, wait_until_ready

    url = server or own_address(load_settings())
    seconds = timedelta(**parse_length(wait)).total_seconds() if wait else 0.0
    problem = call(url, None, lambda client: wait_until_ready(client, seconds))
    if problem:
        raise CommandRefused(f"{url}: {problem}", ExitStatus.FAILED)
    print_result(f"{url} is ready")


def own_address(settings: "Settings") -> str:
    """Return the address, for this machine, of a server with these settings."""
    import ipaddress

    if settings.socket is not None:
        return f"unix:{settings.socket.absolute()}"
    host = settings.host
    try:
        address = ipaddress.ip_address(host)
    except ValueError:  # a name
        return f"http://{host}:{settings.port}"
    if address.is_unspecified:  # all addresses, so the loopback address as well
        address = ipaddress.ip_address("127.0.0.1" if address.version == 4 else "::1")
    return f"http://{address if address.version == 4 else f'[{address}]'}:{settings.port}"


def info(as_json: AsJson = False, server: Server = DEFAULT_SERVER, token: Token = None) -> None:
    """Show a server's version, engines, tools, node and data directory."""
    from wesemu.cli.output import print_json, print_table
    from wesemu.cli.remote import call
    from wesemu.client.transport import nested, nested_list, text

    facts = call(server, token, lambda client: client.control.info())
    if as_json:
        print_json(facts)
        return
    node = nested(facts, "node")
    gpus = ", ".join(text(gpu, "name") or "a GPU" for gpu in nested_list(node, "gpus"))
    rows = [
        ("server", f"wesemu {text(facts, 'version')}, Python {text(facts, 'python')}"),
        ("data", text(facts, "data")),
        ("node", f"{text(node, 'cores')} cores, {text(node, 'memory_mb')} MiB, {gpus or 'no GPU'}"),
        ("pace", text(facts, "pace")),
        ("sandbox", text(facts, "sandbox")),
    ]
    rows += [(f"engine {name}", str(version)) for name, version in nested(facts, "engines").items()]
    rows += [
        (text(tool, "name") or "tools", text(tool, "version") or text(tool, "error"))
        for tool in nested_list(facts, "tools")
    ]
    print_table(("", "FOUND"), rows)


def _references(data: Path) -> Iterator[HealthCheck]:
    from wesemu.cli.data import describe_alternates
    from wesemu.genomics.reference import ReferenceStore

    store = ReferenceStore(data / "references", data / "cache")
    for name in store.names():
        found = store.describe(name)
        indexes = " and ".join(found.indexes) or "no mapper yet"
        text = f"ALT contigs: {describe_alternates(found)}; indexed for {indexes}"
        yield HealthCheck(f"reference {name}", text, str(found.fasta))


def _data_directory(settings: "Settings") -> HealthCheck:
    """Check what a server checks before it creates or uses the data directory."""
    from wesemu.errors import DataDirectoryRefused
    from wesemu.runs.data_directory import DataDirectory

    data = settings.data
    try:
        DataDirectory(data).check(adopt=settings.adopt_data)
    except DataDirectoryRefused as error:
        return HealthCheck("data", "refused", error.message, ok=False)
    except OSError as error:
        return HealthCheck("data", "-", os_sentence(error), ok=False)
    place = _existing(data)
    if not os.access(place, os.W_OK | os.X_OK):
        return HealthCheck("data", "not writable", str(place), ok=False)
    return HealthCheck("data", "a directory" if place == data else "not yet created", str(data))


def _open_files() -> HealthCheck:
    from wesemu.api.connections import LEAST_FILES, possible_file_limit

    limit = possible_file_limit()
    source = f"the limit of a server (ulimit -n), at least {LEAST_FILES}"
    return HealthCheck("open files", str(limit), source, ok=limit >= LEAST_FILES)


def _sandbox(settings: "Settings") -> HealthCheck:
    from wesemu.composition import find_sandbox
    from wesemu.errors import EngineFault

    try:
        choice = find_sandbox(settings)
    except EngineFault as fault:
        return HealthCheck("sandbox", "-", fault.message, ok=False)
    absent = choice.sandbox is None
    return HealthCheck("sandbox", choice.kind, "for users' own workflows", absent=absent)


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
    place = _existing(data)
    free = shutil.disk_usage(place).free
    left = f"{free / _GIBIBYTE:.1f} GiB" if free >= _GIBIBYTE else f"{free >> 20} MiB"
    yield HealthCheck("disk", f"{left} free", str(place), free >= _LEAST_DISK)


def _existing(path: Path) -> Path:
    """Return the path, or the nearest of its parents that is a directory."""
    return next(each for each in (path, *path.parents) if each.is_dir())
