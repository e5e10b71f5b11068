"""The dashboard: its pages, what 50 open pages cost, and its share of the wheel."""

import asyncio
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import aiohttp

from benchmarks.archive import fill
from benchmarks.figures import median, percentile, ratio
from benchmarks.load import load
from benchmarks.options import Options
from benchmarks.processes import cpu_seconds_of
from benchmarks.queue import occupy, submit_some
from benchmarks.report import Report, Row, at_most, figure
from benchmarks.rounds import say
from benchmarks.server import Server, fresh, serving
from benchmarks.wes import ROOT
from benchmarks.workflows import THREE_RULES

_STORED = 100_000
_ROUNDS = 8
_RUNS = 10
_POLL_SECONDS = 0.25
"""Polling costs CPU of the server, too."""
_PAGES = 50
_LOAD_SECONDS = 1.0
_WARM_UP_SECONDS = 1.5

_VARIANTS = ("none", "streams", "visible")

_MOST_PAGE_MS = 100.0
_MOST_PAGE_KB = 100.0
_MOST_WHEEL_MB = 1.0
_UNCHANGED = 1.1

_FIRST_PAGE = "/ui/"
_STATIC = ("/ui/static/dashboard.css", "/ui/static/dashboard.js", "/ui/static/icon.svg")
_SETTLE_SECONDS = 2.0
"""How long the pages need to connect and to show their first refresh."""


def measure(options: Options) -> Report:
    stored = options.count or _STORED
    data, small = options.work / f"index-{stored}", options.work / "index-1000"
    fill(data, stored)
    fill(small, 1000)
    rows: list[Row] = []
    with ExitStack() as stack:
        large_server, small_server = (
            stack.enter_context(serving(folder)) for folder in (data, small)
        )
        rows += _page_rows(large_server, small_server, stored)
        busy = stack.enter_context(
            serving(fresh(options.work / "dashboard"), environment={"WESEMU_NODE__RUNS": "1"})
        )
        occupy(busy)
        opened = _with_open_pages(large_server, busy, options.rounds or _ROUNDS)
    rows += _open_page_rows(opened)
    rows.append(_wheel_row(options.work))
    return Report("dashboard", rows, opened)


def _page_rows(large: Server, small: Server, stored: int) -> Iterator[Row]:
    """Yield time, CPU and size of the first page. The servers answer in turns."""
    latencies: dict[int, list[float]] = {large.pid: [], small.pid: []}
    cpu: dict[int, list[float]] = {large.pid: [], small.pid: []}
    for number in range(4):
        for server in (large, small):
            used = cpu_seconds_of(server.pid)
            found = load(server.wes.port, [_FIRST_PAGE], _WARM_UP_SECONDS)
            if number:
                latencies[server.pid] += found.latencies
                cpu[server.pid].append((cpu_seconds_of(server.pid) - used) / len(found.latencies))
    yield at_most(
        f"`/ui/` with {stored:,} runs: CPU of the server",
        median(cpu[large.pid]) * 1000,
        _MOST_PAGE_MS,
        unit="ms",
        digits=1,
    )
    p99 = percentile(latencies[large.pid], 0.99) * 1000
    yield figure("the same with 8 connections at a time, p99", p99, unit="ms", digits=0)
    yield figure(
        f"`/ui/`: {stored:,} runs against 1,000, CPU",
        ratio(cpu[large.pid], cpu[small.pid]),
        unit="x",
    )
    sizes = {path: len(_get(large, path)) for path in (_FIRST_PAGE, *_STATIC)}
    total = sum(sizes.values()) / 1000
    yield at_most("`/ui/` with style and script", total, _MOST_PAGE_KB, unit="kB", digits=0)


def _get(server: Server, path: str) -> bytes:
    async def get() -> bytes:
        url = f"http://127.0.0.1:{server.wes.port}{path}"
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            response.raise_for_status()
            return await response.read()

    return asyncio.run(get())


def _with_open_pages(listing: Server, busy: Server, rounds: int) -> dict[str, list[float]]:
    """Return CPU seconds of the server by figure and variant, one for each round.

    The variants: no page, 50 streams of events, and 50 visible pages, which follow each change.
    Pages in background tabs have no stream.
    """
    figures: Mapping[str, tuple[Server, Callable[[], float]]] = {
        "GET": (listing, lambda: _get_cpu(listing)),
        "POST": (busy, lambda: submit_some(busy)),
        "run": (listing, lambda: _run_cpu(listing)),
    }
    measured: dict[str, list[float]] = {}
    for number in range(rounds):
        for name, (server, work) in figures.items():
            for variant in _VARIANTS:
                with _open_pages(server, 0 if variant == "none" else _PAGES, variant == "visible"):
                    measured.setdefault(f"{name}, {variant}", []).append(work())
        say(f"{number + 1}/{rounds}")
    return measured


def _get_cpu(server: Server) -> float:
    used = cpu_seconds_of(server.pid)
    found = load(server.wes.port, [f"{ROOT}/runs"], _LOAD_SECONDS)
    return (cpu_seconds_of(server.pid) - used) / len(found.latencies)


def _run_cpu(server: Server) -> float:
    server.wes.reconnect()
    used = cpu_seconds_of(server.pid)
    ids = [
        server.wes.submit("Snakefile", attachments={"Snakefile": THREE_RULES}) for _ in range(_RUNS)
    ]
    for run_id in ids:
        server.wes.wait(run_id, _POLL_SECONDS)
    return (cpu_seconds_of(server.pid) - used) / _RUNS


def _open_page_rows(measured: Mapping[str, list[float]]) -> Iterator[Row]:
    names = {
        "GET": "GET of 100 runs",
        "POST": "POST",
        "run": f"{_RUNS} runs at once, each",
    }
    for name, what in names.items():
        none = measured[f"{name}, none"]
        yield figure(f"{what}: CPU of the server", median(none) * 1000, unit="ms")
        streams, visible = (ratio(measured[f"{name}, {each}"], none) for each in _VARIANTS[1:])
        yield at_most(f"{what}: {_PAGES} open event streams", streams, _UNCHANGED, unit="x")
        yield figure(f"{what}: {_PAGES} visible pages that follow each change", visible, unit="x")


@contextmanager
def _open_pages(server: Server, number: int, visible: bool) -> Iterator[None]:
    """Keep pages open as browsers do: each with a stream of events; visible ones fetch the list
    after each event."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    home = f"http://127.0.0.1:{server.wes.port}/ui/"
    pages = asyncio.run_coroutine_threadsafe(_show(home, number, visible), loop)
    time.sleep(_SETTLE_SECONDS if number else 0)
    try:
        yield
    finally:
        if pages.done():
            pages.result()  # it has failed
        pages.cancel()
        ended = asyncio.run_coroutine_threadsafe(_others_end(), loop)
        ended.result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _show(home: str, number: int, visible: bool) -> None:
    connector = aiohttp.TCPConnector(limit=0)
    unlimited = aiohttp.ClientTimeout(total=None)
    async with (
        aiohttp.ClientSession(connector=connector, timeout=unlimited) as session,
        asyncio.TaskGroup() as pages,
    ):
        for _ in range(number):
            pages.create_task(_show_one(session, home, visible))


async def _show_one(session: aiohttp.ClientSession, home: str, visible: bool) -> None:
    due = asyncio.Event()
    async with asyncio.TaskGroup() as parts, session.get(f"{home}events") as stream:
        if visible:
            parts.create_task(_refresh(session, home, due))
        async for line in stream.content:
            if line.startswith(b"event:"):
                due.set()


async def _refresh(session: aiohttp.ClientSession, home: str, due: asyncio.Event) -> None:
    while True:
        await due.wait()
        due.clear()
        async with session.get(home, headers={"X-Wesemu-Refresh": "1"}) as page:
            page.raise_for_status()
            await page.read()


async def _others_end() -> None:
    """Wait until all other tasks of this loop have ended."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    await asyncio.gather(*others, return_exceptions=True)


def _wheel_row(work: Path) -> Row:
    folder = fresh(work / "wheel")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), "."]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[1])
    [wheel] = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        size = sum(
            entry.compress_size
            for entry in archive.infolist()
            if entry.filename.startswith("wesemu/dashboard/")
        )
    return at_most("share of the wheel, with igv.js", size / 1e6, _MOST_WHEEL_MB, unit="MB")
