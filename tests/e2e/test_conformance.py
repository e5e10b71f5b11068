"""The workflows of `wesemu conformance`, run by the real engines of this server."""

import asyncio
from importlib.util import find_spec

import pytest
from support.live_server import LiveServer, live_server_fixture

from wesemu.conformance.checks import CheckOutcome, examine

server = live_server_fixture(WESEMU_NODE__CORES="4")


@pytest.mark.parametrize(
    ("kind", "library"), [("SMK", "snakemake"), ("CWL", "cwltool"), ("WDL", "WDL")]
)
def test_no_check_fails(server: LiveServer, kind: str, library: str) -> None:
    if find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    url = f"{server.home}/1.1.0/ga4gh/wes/v1"
    report = asyncio.run(examine(url, workflow_type=kind))
    failed = [result for result in report.results if result.outcome is CheckOutcome.FAIL]
    assert [(result.check.id, result.reason, result.exchange) for result in failed] == []
    assert (report.version, report.workflow_type) == ("1.1.0", kind)
