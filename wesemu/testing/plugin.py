"""The pytest plugin: the fixtures `wesemu` and `wesemu_session` (docs/pytest.md).

Nothing of wesemu is imported before a test uses a fixture.
"""

import json
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from wesemu.testing.emulator import Emulator, EmulatorServer

_ENGINES = ("scripted", "real")
_MARKER = (
    "wesemu(engine='scripted', settings={}): the engine of the fixture wesemu ('scripted' or "
    "'real'), and settings of its server as in wesemu.toml"
)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", _MARKER)


class _Servers:
    """The servers of this process, by engine and settings."""

    def __init__(self) -> None:
        self._servers: dict[str, EmulatorServer] = {}

    def get(self, engine: str, settings: dict[str, Any]) -> "Emulator":
        from wesemu.testing.emulator import Emulator, EmulatorServer

        key = json.dumps([engine, settings], sort_keys=True)
        server = self._servers.get(key)
        if server is None or not server.is_running:
            if server is not None:
                server.close()
            server = self._servers[key] = EmulatorServer(engine, settings)
            Emulator(server).reset()  # sets the seed of run ids
        return Emulator(server)

    def close(self) -> None:
        for server in self._servers.values():
            server.close()


@pytest.fixture(scope="session")
def _wesemu_servers() -> Iterator[_Servers]:
    servers = _Servers()
    yield servers
    servers.close()


@pytest.fixture
def wesemu(request: pytest.FixtureRequest, _wesemu_servers: _Servers) -> "Iterator[Emulator]":
    """Give a test an empty wesemu server; `@pytest.mark.wesemu(engine="real")` runs real tools."""
    engine, settings = _options(request.node)
    emulator = _wesemu_servers.get(engine, settings)
    yield emulator
    emulator.reset()


@pytest.fixture(scope="session")
def wesemu_session() -> "Iterator[Emulator]":
    """Give all tests a second server with the scripted engine, which nothing resets."""
    servers = _Servers()
    yield servers.get("scripted", {})
    servers.close()


def _options(node: pytest.Item) -> tuple[str, dict[str, Any]]:
    engine = "scripted"
    settings: dict[str, Any] = {}
    for marker in reversed(list(node.iter_markers("wesemu"))):  # the nearest one wins
        if marker.args or not marker.kwargs.keys() <= {"engine", "settings"}:
            pytest.fail(f"the marker wesemu is {_MARKER}", pytrace=False)
        engine = marker.kwargs.get("engine", engine)
        settings = marker.kwargs.get("settings", settings)
    if engine not in _ENGINES:
        pytest.fail(f"wesemu's engine is {' or '.join(_ENGINES)}, not {engine!r}", pytrace=False)
    return engine, settings


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the last runs and requests to the report of a failed test."""
    report = yield
    if report.when == "call" and report.failed:
        arguments = getattr(item, "funcargs", {})
        for name in ("wesemu", "wesemu_session"):
            emulator: Any = arguments.get(name)
            if hasattr(emulator, "report"):
                report.sections.append((f"{name} server", emulator.report()))
    return report
