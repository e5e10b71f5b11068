"""wesemu beside other WES servers, measured in turns (A B C D A B C D …).

What a server cannot do is found by trying: the reason stands in the place of the figure.
"""

import http.client
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks import fixtures
from benchmarks.archive import fill
from benchmarks.load import load
from benchmarks.machine import cores
from benchmarks.options import Options
from benchmarks.peer_servers import (
    PeerServer,
    ServerKind,
    describe_versions,
    install,
    multiply_run,
    server_kinds,
    serving_peer,
)
from benchmarks.peer_table import FAILURES, Format, Measurement, PeerTable, Target
from benchmarks.processes import cpu_seconds_below, memory_bytes, wake_ups
from benchmarks.report import Report
from benchmarks.server import fresh
from benchmarks.start_cwl import ECHO
from benchmarks.wes import ENDED, form, run_fields
from benchmarks.workflows import THREE_RULES
from wesemu.genomics.simulate.fixture import FixtureSettings

OURS = "wesemu"
_ROUNDS = 3
_RUN_SECONDS = 90.0
_PIPELINE_SECONDS = 120.0
_BURSTS = {8: 60.0, 60: 100.0}
"""Runs at once, and the seconds after which those that have not ended are given up."""

_STORED = 1_000
_LOAD_SECONDS = 1.0
_SETTLE_SECONDS = 3.0
_IDLE_SECONDS = 5.0
_POLL_SECONDS = 0.02
_BURST_POLL_SECONDS = 0.1
_SHARE_OF_WAIT = 0.03
_ANSWERS_AT_ONCE = 8
_ANSWER_SECONDS = 5.0
_MEBIBYTE = 1 << 20
_SIZE = 200 * _MEBIBYTE
_LARGE = "large.bin"
_WRITE_LARGE = f"""\
cwlVersion: v1.2
class: CommandLineTool
baseCommand: [head, -c, "{_SIZE}", /dev/zero]
inputs: []
outputs:
  large: stdout
stdout: {_LARGE}
"""
_PIPELINES = Path(__file__).resolve().parents[1] / "pipelines"
_SECONDS = Format("s")
_RATE = Format("a second", digits=0, more_is_better=True)
_SPEED = Format("MiB/s", digits=0, more_is_better=True)

_NOTES = (
    "sapporo starts engines in containers: here its run.sh has one more function, which replaces "
    "`docker run` by the engine of its environment; no server reaches Docker",
    "toil runs with `--bypass_celery`: its queue needs a message broker",
    "a first CWL run and a first Snakemake run of each server are not measured",
    f"GETs: 8 connections, {_STORED:,} stored runs; some servers ignore the size of a page",
    "medians of the rounds; a row that takes longer than 45 s has fewer rounds",
    "a burst is measured once, with a new server that has run one workflow before",
)

Servers = Mapping[str, PeerServer]
Prepared = tuple[bytes, dict[str, str]]


def measure(options: Options) -> Report:
    work, rounds = options.work / "peers", options.rounds or _ROUNDS
    all_kinds = {kind.name: kind for kind in server_kinds()}
    table = PeerTable(list(all_kinds))
    kinds = table.keep_working(all_kinds, partial(install, work=work))
    _start_up(table, kinds, rounds, work)
    with ExitStack() as stack:
        data = {name: stack.enter_context(_folder(work / f"{name}-data")) for name in kinds}
        sample = fixtures.sample(options.work, FixtureSettings().pairs)
        reference = fixtures.stock(data[OURS], sample)
        servers = table.keep_working(
            kinds,
            lambda kind: stack.enter_context(serving_peer(kind, work, data[kind.name]))[0],
        )
        _idle(table, servers)
        unable = _small_runs(table, servers, rounds)
        _transfers(table, servers, rounds)
        _pipelines(table, servers, rounds, unable, _configuration(sample, reference))
    _bursts(table, kinds, work)
    _requests(table, kinds, rounds, work)
    versions = [f"{name}: {describe_versions(kind, work)}" for name, kind in kinds.items()]
    return Report(
        "peers: wesemu and other WES servers in turns",
        table.rows,
        table.samples,
        columns=(*table.names, f"{OURS} is better"),
        notes=[*versions, *_NOTES],
    )


@contextmanager
def _folder(path: Path) -> Iterator[Path]:
    yield fresh(path)
    shutil.rmtree(path, ignore_errors=True)


def _start_up(table: PeerTable, kinds: Mapping[str, ServerKind], rounds: int, work: Path) -> None:
    def start(kind: ServerKind) -> Measurement:
        with (
            _folder(work / f"{kind.name}-start") as data,
            serving_peer(kind, work, data) as (server, seconds),
        ):
            return Measurement(seconds, cpu_seconds_below(server.pid))

    what = "exec to the first 200"
    results = table.take_turns(what, kinds, start, rounds)
    table.add(what, results, _SECONDS)
    table.add(f"{what}, CPU", results, _SECONDS, cpu=True)


def _idle(table: PeerTable, servers: Servers) -> None:
    """Measure memory and wake-ups of all servers at the same time."""
    time.sleep(_SETTLE_SECONDS)
    before = {name: wake_ups(server.pids()) for name, server in servers.items()}
    time.sleep(_IDLE_SECONDS)

    def count(server: PeerServer) -> Measurement:
        return Measurement((wake_ups(server.pids()) - before[server.kind.name]) / _IDLE_SECONDS)

    def memory(server: PeerServer) -> Measurement:
        return Measurement(memory_bytes(server.pids()) / _MEBIBYTE)

    woken = table.take_turns("idle", servers, count)
    held = table.take_turns("memory", servers, memory)
    table.add("idle: wake-ups a second, all processes", woken, Format(digits=1))
    table.add("idle: memory, all processes", held, Format("MiB", digits=0))


def _small_runs(table: PeerTable, servers: Servers, rounds: int) -> set[str]:
    """Return the names of the servers that cannot run a Snakemake workflow."""
    runs: dict[str, tuple[Callable[[PeerServer], Measurement], Target]] = {
        "a CWL echo": (lambda server: _run(server, _echo(server)), Target(most=0.6, times=4.0)),
        "three Snakemake rules": (lambda server: _run(server, _three_rules(server)), Target()),
    }
    for what, (once, target) in runs.items():
        results = table.take_turns(what, servers, once, rounds, warm_up=1)
        table.add(f"{what}, POST to COMPLETE", results, _SECONDS, target=target)
        table.add(f"{what}, CPU", results, _SECONDS, cpu=True)
    return {name for name, result in results.items() if result.reason}


def _requests(table: PeerTable, kinds: Mapping[str, ServerKind], rounds: int, work: Path) -> None:
    """Measure GETs by 8 connections of servers with many runs."""
    with ExitStack() as stack:

        def start(kind: ServerKind) -> PeerServer:
            data = stack.enter_context(_folder(work / f"{kind.name}-data"))
            run_id = _store_runs(kind, work, data)
            server, _ = stack.enter_context(serving_peer(kind, work, data))
            server.last_run = run_id
            return server

        servers = table.keep_working(kinds, start)
        for what, path in (
            ("`service-info`", "/service-info"),
            ("`runs`, 10 a page", "/runs?page_size=10"),
            ("`runs/{id}/status`", "/runs/{run}/status"),
            ("`runs/{id}`", "/runs/{run}"),
        ):
            results = table.take_turns(what, servers, partial(_get, path=path), rounds)
            table.add(f"GET {what}", results, _RATE, target=Target(times=5.0))
            table.add(f"GET {what}, CPU", results, Format("ms", scale=1000), cpu=True)


def _store_runs(kind: ServerKind, work: Path, data: Path) -> str:
    """Fill the data directory of a server: copies of a run. Return the id of a run."""
    if kind.name == OURS:
        return fill(data, _STORED)[0]
    with serving_peer(kind, work, data) as (server, _):
        _run(server, _echo(server))
    multiply_run(data, server.last_run, _STORED)
    return server.last_run


def _get(server: PeerServer, path: str) -> Measurement:
    """Load a server. The value is requests per second, CPU seconds are those of one request."""
    path = server.wes.root + path.format(run=server.last_run)
    used = cpu_seconds_below(server.pid)
    found = load(server.wes.port, (path,), _LOAD_SECONDS)
    server.wait_until_idle()
    used = cpu_seconds_below(server.pid) - used
    return Measurement(found.per_second, used / len(found.latencies))


def _transfers(table: PeerTable, servers: Servers, rounds: int) -> None:
    """Measure an attachment and an output of a run, both of 200 MiB."""
    text = "x" * _SIZE
    urls: dict[str, str] = {}

    def upload(server: PeerServer) -> Measurement:
        prepared = _cwl(server, ECHO, {"message": "hello"}, {_LARGE: text})
        start = time.perf_counter()
        run_id = server.wes.again().post(prepared)
        seconds = time.perf_counter() - start
        _wait(server, run_id)
        return Measurement(_SIZE / _MEBIBYTE / seconds)

    def download(server: PeerServer) -> Measurement:
        if server.kind.name not in urls:
            run_id = server.wes.again().post(_cwl(server, _WRITE_LARGE, {}))
            _wait(server, run_id)
            urls[server.kind.name] = _output_url(server.wes.again().get(f"/runs/{run_id}"))
        start = time.perf_counter()
        _read(urls[server.kind.name])
        return Measurement(_SIZE / _MEBIBYTE / (time.perf_counter() - start))

    size = f"{_SIZE // _MEBIBYTE} MiB"
    table.add(f"attachment of {size}", table.take_turns("upload", servers, upload, rounds), _SPEED)
    results = table.take_turns("download", servers, download, rounds)
    table.add(f"output of {size}, download", results, _SPEED)


def _configuration(sample: Path, reference: Path) -> dict[str, object]:
    """Return the pipelines' configuration without wesemu's server."""
    first, second = (str(sample / f"reads_{mate}.fq.gz") for mate in (1, 2))
    return {
        "reads": [{"first": first, "second": second}],
        "reference": str(reference),
        "reference_records": str(reference.parent / "records"),
    }


def _pipelines(
    table: PeerTable,
    servers: Servers,
    rounds: int,
    unable: Set[str],
    configuration: Mapping[str, object],
) -> None:
    """Run the bundled pipelines: wesemu by their names, other servers by their Snakefiles."""

    def once(server: PeerServer, name: str) -> Measurement:
        if server.kind.name in unable:
            raise RuntimeError("no Snakemake, see above")
        if server.kind.name == OURS:
            prepared = form(run_fields(name, fixtures.params()))
        else:
            snakefile = _PIPELINES / name / "workflow" / "Snakefile"
            prepared = _form(server, run_fields(str(snakefile), configuration, engine=_cores()))
        return _run(server, prepared, _PIPELINE_SECONDS)

    for name in ("mapping", "wgs"):
        results = table.take_turns(name, servers, partial(once, name=name), rounds)
        what = f"`{name}`, {FixtureSettings().pairs:,} pairs"
        table.add(f"{what}, POST to COMPLETE", results, _SECONDS)
        table.add(f"{what}, CPU", results, _SECONDS, cpu=True)


def _bursts(table: PeerTable, kinds: Mapping[str, ServerKind], work: Path) -> None:
    for count, limit in _BURSTS.items():
        what = f"{count} CWL echoes at once"
        once = partial(_burst, work=work, count=count, limit=limit)
        table.add(f"{what}, until all are COMPLETE", table.take_turns(what, kinds, once), _SECONDS)


def _burst(kind: ServerKind, work: Path, count: int, limit: float) -> Measurement:
    with (
        _folder(work / f"{kind.name}-data") as data,
        serving_peer(kind, work, data) as (server, _),
    ):
        _run(server, _echo(server))
        return _run_at_once(server, count, limit)


def _run_at_once(server: PeerServer, count: int, limit: float) -> Measurement:
    """Submit `count` runs at once. The value is the time until all are COMPLETE.

    Lost runs were refused or failed. The rest is given up after `limit` seconds.
    """
    prepared = _echo(server)
    start = time.perf_counter()

    def submit(_: int) -> str | None:
        try:
            return server.wes.again(limit).post(prepared)
        except FAILURES:
            return None

    def is_complete(run_id: str) -> bool | None:
        """Return None if the run has not ended, or if the server does not answer in time."""
        try:
            state = server.wes.again(_ANSWER_SECONDS).get(f"/runs/{run_id}/status")["state"]
        except FAILURES:
            return None
        return state == "COMPLETE" if state in ENDED else None

    with ThreadPoolExecutor(count) as threads:
        accepted = [run_id for run_id in threads.map(submit, range(count)) if run_id]
    pending, complete = accepted, 0
    with ThreadPoolExecutor(_ANSWERS_AT_ONCE) as threads:
        while pending and (passed := time.perf_counter() - start) < limit:
            # polling competes with the runs for cores
            time.sleep(max(_BURST_POLL_SECONDS, _SHARE_OF_WAIT * passed))
            states = dict(zip(pending, threads.map(is_complete, pending), strict=True))
            complete += sum(1 for state in states.values() if state)
            pending = [run_id for run_id, state in states.items() if state is None]
    took = time.perf_counter() - start
    lost = count - complete - len(pending)
    notes = [f"{lost} of {count} lost"] if lost else []
    notes += [f"{len(pending)} of {count} had not ended"] if pending else []
    return Measurement(took, note=", ".join(notes))


def _run(server: PeerServer, prepared: Prepared, limit: float = _RUN_SECONDS) -> Measurement:
    """Run a workflow. The value is the time from POST to COMPLETE."""
    used = cpu_seconds_below(server.pid)
    server.wes.reconnect()
    start = time.perf_counter()
    run_id = server.last_run = server.wes.post(prepared)
    server.wes.wait(run_id, _POLL_SECONDS, limit=limit)
    took = time.perf_counter() - start
    server.wait_until_idle()
    return Measurement(took, cpu_seconds_below(server.pid) - used)


def _wait(server: PeerServer, run_id: str) -> None:
    server.wes.reconnect()
    server.wes.wait(run_id, _POLL_SECONDS, limit=_RUN_SECONDS)
    server.wait_until_idle()


def _echo(server: PeerServer) -> Prepared:
    return _cwl(server, ECHO, {"message": "hello"})


def _cwl(
    server: PeerServer,
    tool: str,
    params: Mapping[str, object],
    attachments: Mapping[str, str] | None = None,
) -> Prepared:
    fields = run_fields("tool.cwl", params, language=("CWL", "v1.2"))
    return _form(server, fields, {"tool.cwl": tool, **(attachments or {})})


def _three_rules(server: PeerServer) -> Prepared:
    fields = run_fields("Snakefile", engine=_cores())
    return _form(server, fields, {"Snakefile": THREE_RULES})


def _form(
    server: PeerServer, fields: Mapping[str, str], attachments: Mapping[str, str] | None = None
) -> Prepared:
    required = server.kind.fields.get(fields["workflow_type"], {})
    return form({**fields, **required}, attachments)


def _cores() -> dict[str, str]:
    return {"--cores": str(cores())}


def _output_url(run: Mapping[str, object]) -> str:
    """Return the address of the large output. Raise RuntimeError if it has none of HTTP."""
    pending, found = [run.get("outputs")], []
    while pending:
        match pending.pop():
            case dict() as item:
                pending += item.values()
            case list() as items:
                pending += items
            case str() as text if text.endswith(f"/{_LARGE}"):
                found.append(text)
    for url in found:
        if urlsplit(url).scheme == "http":
            return url
    location = found[0] if found else run.get("outputs")
    raise RuntimeError(f"no address of HTTP in the run's outputs: {location}")


def _read(url: str) -> None:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=_RUN_SECONDS)
    connection.request("GET", parts.path)
    response = connection.getresponse()
    received = 0
    while block := response.read(_MEBIBYTE):
        received += len(block)
    connection.close()
    if response.status != http.client.OK or received != _SIZE:
        raise RuntimeError(f"GET {url}: {response.status}, {received} bytes")
