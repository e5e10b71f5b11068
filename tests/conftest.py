"""Fixtures for all tests. A blocking call on the event loop fails the test."""

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from importlib.metadata import entry_points
from itertools import count
from pathlib import Path

import hypothesis
import pytest
import structlog
from aiohttp import web, web_app
from aiohttp.test_utils import TestClient
from api.oss.fixtures import start_oss_server
from blockbuster import BlockBuster, blockbuster_ctx
from parallel import (
    pytest_cmdline_main,
    pytest_collection_modifyitems,
    pytest_make_parametrize_id,
    pytest_xdist_make_scheduler,
)
from pytest_aiohttp import AiohttpClient
from support.ports import reserve_port
from support.preloaded_program import PreloadedProgram
from support.remote_buckets import KEY_ID, SECRET, OssSide, S3Side, Side, moto
from support.scripted import START, fill_bucket, scripted_engine

from wesemu.app import RUNS, create_app
from wesemu.runs.clock import ManualClock
from wesemu.runs.data_directory import IdSource
from wesemu.runs.service import RunService
from wesemu.settings import Settings
from wesemu.storage.remote import RemoteStore
from wesemu.testing.fake_engine import ScriptedEngine

__all__ = [
    "pytest_cmdline_main",
    "pytest_collection_modifyitems",
    "pytest_make_parametrize_id",
    "pytest_xdist_make_scheduler",
]

if not any(each.value == "wesemu.testing.plugin" for each in entry_points(group="pytest11")):
    pytest_plugins = ["wesemu.testing.plugin"]  # the package was installed before it had a plugin

ROOT = Path(__file__).resolve().parents[1]

IMPORTED_BY_RUNS = (
    "isal.igzip_lib",
    "jsonschema.validators",
    "pandas",
    "smart_open.s3",
    "snakemake.executors.local",
    "snakemake.profiles",
    "snakemake.report.html_reporter",
    "snakemake.script",
    "snakemake.storage",
    "yte",
)
"""Modules that Snakemake imports in each run, if they are installed."""

# no deadline: durations depend on the machine
for _profile, _derandomize in (("wesemu", True), ("random", False)):
    hypothesis.settings.register_profile(
        _profile,
        deadline=None,
        derandomize=_derandomize,
        suppress_health_check=[hypothesis.HealthCheck.too_slow],
    )
hypothesis.settings.load_profile("wesemu")


def pytest_configure() -> None:
    """Set up the environment of child processes independently of the caller.

    Bytecode may be cached: otherwise thousands of processes each compile hundreds of modules.
    Children get default handlers for signals that a CI runner or nohup ignores. A child inherits
    an ignored signal, but a signal with a handler in the parent is reset to the default. So the
    tests themselves still ignore SIGHUP under nohup. Variables such as WESEMU_SERVER, which README
    tells users to export, are settings of the caller's server and not of the tests. A proxy of the
    caller's network (`http_proxy`) would not reach the servers of the tests.
    """
    for name in list(os.environ):
        if name.startswith("WESEMU_") or name.lower().endswith("_proxy"):
            del os.environ[name]
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    configure_plain_logs()  # an application of a fixture with a wider scope keeps its first logger
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, _ignore)
    if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # else no child's exit status can be read


def pytest_collection_finish() -> None:
    """Exempt the imported modules from garbage collection, which passes over them often."""
    gc.collect()
    gc.freeze()


def _ignore(number: int, frame: object) -> None:
    pass


@pytest.fixture(autouse=True)
def removed_last(tmp_path: Path) -> None:
    """Make `tmp_path` before all other fixtures, so that servers close before it is removed."""


@pytest.fixture(autouse=True)
def blockbuster() -> Iterator[BlockBuster]:
    with blockbuster_ctx("wesemu") as detector:
        yield detector


@pytest.fixture(autouse=True)
def forgotten_applications() -> Iterator[None]:
    """Let go of the applications of a test, which aiohttp keeps: 500 of them take a gigabyte."""
    yield
    web_app._cached_build_middleware.cache_clear()


def configure_plain_logs() -> None:
    """Log without rich tracebacks, which read source files on the event loop."""
    structlog.configure(
        processors=[structlog.processors.format_exc_info, structlog.processors.KeyValueRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(),
    )


@pytest.fixture(autouse=True)
def plain_logs() -> Iterator[None]:
    """Configure logs again, and restore the umask after each test: `wesemu serve` sets both."""
    umask = os.umask(0o022)
    os.umask(umask)
    configure_plain_logs()
    yield
    os.umask(umask)


@pytest.fixture(scope="session")
def plain_snakemake() -> Iterator[PreloadedProgram]:
    """Return Snakemake's command line."""
    with PreloadedProgram("snakemake.cli", "main", *IMPORTED_BY_RUNS) as program:
        yield program


@pytest.fixture
def shared_data() -> Path:
    """Return the folder with real reads and a real truth set beside the checkout, or skip."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no ../shared/data beside the checkout")
    return folder


@pytest.fixture(scope="session")
def small_node() -> Settings:
    """Return settings with two cores, no GPU and no web access. Validated once for speed."""
    return Settings.model_validate(
        {
            "node": {"cores": 2, "memory_mb": 4096, "gpus": 0, "runs": 1},
            "workflows": {"fetch": False},
        }
    )


@pytest.fixture
def settings(tmp_path: Path, small_node: Settings) -> Settings:
    """Return `small_node` with a data directory, in which a bucket `genes` has reads."""
    data = tmp_path / "data"
    fill_bucket(data)
    return small_node.model_copy(update={"data": data}, deep=True)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START)


@pytest.fixture
def engine(clock: ManualClock) -> ScriptedEngine:
    return scripted_engine(clock)


@pytest.fixture
async def app(settings: Settings, clock: ManualClock, engine: ScriptedEngine) -> web.Application:
    """Return the whole server with the scripted engine and ids from seed 1."""
    return await create_app(settings, clock=clock, ids=IdSource(seed=1), engines=[engine])


@pytest.fixture
async def client(
    aiohttp_client: AiohttpClient, app: web.Application
) -> TestClient[web.Request, web.Application]:
    return await aiohttp_client(app)


@pytest.fixture
def runs(app: web.Application) -> RunService:
    return app[RUNS]


@pytest.fixture(scope="session")
def s3_service() -> Iterator[tuple[str, RemoteStore]]:
    with moto() as service:
        yield service


@pytest.fixture(params=["s3", "oss"])
async def side(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    numbers: Iterator[int],
    s3_service: tuple[str, RemoteStore],
) -> AsyncIterator[Side]:
    """Yield a remote bucket on this machine: S3 of moto and OSS of wesemu, with keys."""
    name = f"there-{next(numbers)}"
    if request.param == "s3":
        yield await asyncio.to_thread(S3Side, s3_service[0], name, s3_service[1])
        return
    root = tmp_path / "there"
    (root / name).mkdir(parents=True)
    server = await start_oss_server(root, keys={KEY_ID: SECRET})
    yield OssSide(f"http://127.0.0.1:{server.port}", root, name)
    await server.close()


@pytest.fixture
def reserved_port() -> Iterator[int]:
    """Yield a free port of 127.0.0.1. The test may start a server there."""
    with reserve_port() as port:
        yield port


@pytest.fixture(scope="session")
def numbers() -> Iterator[int]:
    return count(1)
