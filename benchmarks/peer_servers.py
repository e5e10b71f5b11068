"""Other WES servers from the package index; they and wesemu are started in the same way.

Each server has an environment of its own. CWL and Snakemake have the versions of this environment
everywhere, except in toil, which requires a version of cwltool.
"""

import contextlib
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPException
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.processes import cpu_seconds_below, descendants
from benchmarks.rounds import say
from benchmarks.server import clean_environment, fresh, serve_command
from benchmarks.wes import ROOT, Wes

_CHECKOUT = Path(__file__).resolve().parents[1]
_START_SECONDS = 60.0
_STOP_SECONDS = 5.0
_POLL_SECONDS = 0.005
_IDLE_STEP_SECONDS = 0.1
_IDLE_CPU_SECONDS = 0.01
_IDLE_AFTER_SECONDS = 30.0

_NO_DOCKER = "unix:///nonexistent"
"""Without it sapporo pulls an image for the RO-Crate of each run."""

_NO_CONTAINER = """
# Replaces `docker run`: the engine of this environment runs instead of its image.
docker() (
    local program=()
    while [[ "$1" != "${container}" ]]; do
        case "$1" in
        -w=*) cd "${1#-w=}" ;;
        --entrypoint) program=("$2"); shift ;;
        esac
        shift
    done
    shift
    exec "${program[@]}" "$@"
)
"""


@dataclass(frozen=True, slots=True)
class ServerKind:
    """How to install and start a server.

    `command` gets the folder of the environment's programs, a port and the data directory.
    `requirements` are those of pip; a kind without requirements runs in this environment.
    `packages` are those whose versions a report states. `root` is the path of the WES API. `fields`
    has, for each workflow type, the fields of RunWorkflow that the server requires in addition.
    """

    name: str
    command: Callable[[Path, int, Path], Sequence[str]]
    requirements: Sequence[str] = ()
    packages: Sequence[str] = ()
    root: str = ROOT
    fields: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def programs(self, work: Path) -> Path:
        return work / self.name / "bin" if self.requirements else Path(sys.executable).parent


@dataclass(slots=True)
class PeerServer:
    """A running server. `wes` is a client, `pid` its process, `last_run` the id of a run."""

    kind: ServerKind
    wes: Wes
    pid: int
    data: Path
    last_run: str = ""

    def pids(self) -> list[int]:
        return [self.pid, *descendants(self.pid)]

    def wait_until_idle(self) -> None:
        """Wait until the server and its runs use no CPU, for half a minute at most."""
        deadline = time.monotonic() + _IDLE_AFTER_SECONDS
        used = cpu_seconds_below(self.pid)
        while time.monotonic() < deadline:
            time.sleep(_IDLE_STEP_SECONDS)
            before, used = used, cpu_seconds_below(self.pid)
            if used - before <= _IDLE_CPU_SECONDS:
                return


def server_kinds() -> list[ServerKind]:
    """Return wesemu and its peers."""
    cwltool, snakemake = _pinned("cwltool"), _pinned("snakemake")
    return [
        ServerKind("wesemu", _wesemu, packages=("wesemu", "cwltool", "snakemake")),
        ServerKind(
            "sapporo",
            _sapporo,
            # rules of the bundled pipelines import wesemu
            ("sapporo==2.4.0", cwltool, snakemake, f"--editable={_CHECKOUT}"),
            ("sapporo", "cwltool", "snakemake"),
            root="",
            fields={
                "CWL": {"workflow_engine": "cwltool"},
                "SMK": {"workflow_engine": "snakemake", "workflow_type_version": "1.0"},
            },
        ),
        ServerKind(
            "toil", _toil, ("toil[cwl,server,aws]==9.6.0",), ("toil", "cwltool", "wes-service")
        ),
        ServerKind(
            "wes-service",
            _wes_service,
            ("wes-service==5.0", cwltool),
            ("wes-service", "cwltool"),
        ),
    ]


def _pinned(package: str) -> str:
    """Return the requirement for the version in this environment, or for any version."""
    try:
        return f"{package}=={version(package)}"
    except PackageNotFoundError:
        return package


def _wesemu(programs: Path, port: int, data: Path) -> list[str]:
    return serve_command(data, port)


def _sapporo(programs: Path, port: int, data: Path) -> list[str]:
    """Write a run.sh for engines without containers. Return the command."""
    (bundled,) = programs.parent.glob("lib/python*/site-packages/sapporo/run.sh")
    script, runs = data / "run.sh", data / "runs"
    runs.mkdir(exist_ok=True)
    script.write_text(engine_script(bundled.read_text()))
    return [
        str(programs / "sapporo"),
        "--host=127.0.0.1",
        f"--port={port}",
        f"--run-dir={runs}",
        f"--run-sh={script}",
    ]


def engine_script(bundled: str) -> str:
    """Return sapporo's script with a function that runs engines without containers."""
    first, rest = bundled.split("\n", 1)
    return f"{first}\n{_NO_CONTAINER}{rest}"


def _toil(programs: Path, port: int, data: Path) -> list[str]:
    """Without Celery, which needs a message broker: the server starts the workflows itself."""
    return [
        str(programs / "toil"),
        "server",
        "--bypass_celery",
        f"--port={port}",
        f"--work_dir={data / 'workflows'}",
    ]


def _wes_service(programs: Path, port: int, data: Path) -> list[str]:
    return [
        str(programs / "wes-server"),
        "--backend=wes_service.cwl_runner",
        f"--opt=runner={programs / 'cwltool'}",
        f"--port={port}",
    ]


def install(kind: ServerKind, work: Path) -> ServerKind:
    """Make the environment of `kind` below `work`, unless it is there. Return `kind`.

    Raise RuntimeError with the last line of pip if it fails.
    """
    if not kind.requirements:
        return kind
    folder = work / kind.name
    done, wanted = folder / "installed.txt", "\n".join(kind.requirements)
    if done.is_file() and done.read_text() == wanted:
        return kind
    say(f"installing {kind.name}")
    pip = [str(kind.programs(work) / "python"), "-m", "pip", "install", "--quiet"]
    for command in (
        [sys.executable, "-m", "venv", str(fresh(folder))],
        [*pip, *kind.requirements],
    ):
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        if ended.returncode:
            raise RuntimeError(f"pip: {(ended.stderr.strip().splitlines() or ['failed'])[-1]}")
    done.write_text(wanted)
    return kind


def describe_versions(kind: ServerKind, work: Path) -> str:
    """Return Python's version and those of the packages in the environment of `kind`."""
    script = (
        "import platform, sys; from importlib.metadata import version\n"
        "print('Python', platform.python_version(), end='')\n"
        "for name in sys.argv[1:]: print(',', name, version(name), end='')"
    )
    command = [str(kind.programs(work) / "python"), "-c", script, *kind.packages]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@contextmanager
def serving_peer(kind: ServerKind, work: Path, data: Path) -> Iterator[tuple[PeerServer, float]]:
    """Start a server over `data`. Yield it, with the seconds from exec to the first 200.

    Stop it at the end, with all processes of its runs. It logs to `data`/server.log. Raise
    RuntimeError if it does not start.
    """
    port, programs = _free_port(), kind.programs(work)
    command = kind.command(programs, port, data)
    temporary = fresh(data.with_name(f"{data.name}-tmp"))
    path = f"{programs}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    with (data / "server.log").open("ab") as log:
        start = time.perf_counter()
        process = subprocess.Popen(
            command,
            cwd=data,
            env=clean_environment()
            | {"PATH": path, "TMPDIR": str(temporary), "DOCKER_HOST": _NO_DOCKER},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        wes = Wes(f"http://127.0.0.1:{port}", root=kind.root)
        _wait_for_answer(wes, process, data / "server.log")
        yield PeerServer(kind, wes, process.pid, data), time.perf_counter() - start
    finally:
        _stop(process)
        shutil.rmtree(temporary, ignore_errors=True)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def _wait_for_answer(wes: Wes, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    reason = "no answer"
    while time.monotonic() < deadline and process.poll() is None:
        try:
            wes.get("/runs")
        except (OSError, HTTPException, RuntimeError) as error:
            reason = str(error)
            wes.reconnect()
            time.sleep(_POLL_SECONDS)
        else:
            return
    last = (log.read_text(errors="replace").strip().splitlines() or [reason])[-1]
    raise RuntimeError(f"the server does not start: {last}")


def multiply_run(data: Path, run_id: str, count: int) -> None:
    """Copy the files of a run of a stopped server until it has `count` runs.

    Raise RuntimeError if it has no directory for the run.
    """
    places = [place for place in data.rglob(run_id) if place.is_dir()]
    if not places:
        raise RuntimeError(f"no directory of run {run_id}")
    digits = random.Random(0)
    for _ in range(count - 1):
        copy = re.sub("[0-9a-f]", lambda _: digits.choice("0123456789abcdef"), run_id)
        for place in places:
            parent = place.parent
            if parent.name == run_id[:2]:
                parent = parent.parent / copy[:2]
            shutil.copytree(place, parent / copy, symlinks=True)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """Stop the server, and kill what it leaves: runs that have not ended."""
    # field 19 of /proc/PID/stat after the name is the start time; a reused id has another one
    started = {pid: fields[19] for pid, fields in descendants(process.pid).items()}
    process.send_signal(signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_SECONDS)
    if process.poll() is None:
        process.kill()
        process.wait()
    for pid, fields in started.items():
        with contextlib.suppress(OSError, IndexError):
            stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
            if stat.rpartition(")")[2].split()[19] == fields:
                os.kill(pid, signal.SIGKILL)
