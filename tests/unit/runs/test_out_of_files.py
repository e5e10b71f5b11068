"""Without free file descriptors, runs wait and requests get an error; nothing fails."""

import errno
from datetime import timedelta

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from structlog.testing import capture_logs
from support.file_limit import no_descriptors
from support.waiting import eventually, soon
from unit.runs.test_service import ended, mapping

from wesemu.app import RUNS, create_app
from wesemu.errors import EngineFault
from wesemu.runs.clock import ManualClock
from wesemu.runs.disk_full import out_of_files
from wesemu.runs.model import LOCAL_OWNER, Pacing, RunState
from wesemu.settings import Settings, SlaSettings
from wesemu.testing.fake_engine import ScriptedEngine

Client = TestClient[web.Request, web.Application]


async def test_a_finished_run_waits_for_descriptors(
    settings: Settings, clock: ManualClock, engine: ScriptedEngine
) -> None:
    """Its tools are done, and its service level's time is over: it is about to be published."""
    settings.sla = SlaSettings(pace=Pacing.SLA)
    app = await create_app(settings, clock=clock, engines=[engine])
    async with TestServer(app):
        runs = app[RUNS]
        run = await runs.submit(LOCAL_OWNER, mapping())
        async with soon():
            async for seen in runs.follow(LOCAL_OWNER, run.id):
                if seen.counts is not None:
                    break
        with capture_logs() as logs, no_descriptors():
            clock.advance(timedelta(days=1))
            await eventually(lambda: any(log["event"] == "run waits" for log in logs))
            assert (await runs.get(LOCAL_OWNER, run.id)).state is RunState.RUNNING
        assert (await ended(runs, run)).state is RunState.COMPLETE
    assert not any("exc_info" in log for log in logs)


async def test_requests_are_refused_without_a_traceback(client: Client) -> None:
    calls = {
        "/ga4gh/wes/v1/runs": {"workflow_url": "mapping"},
        "/gs/workflow": {"workflow_type": "mapping"},
    }
    assert (await client.get("/oss/genes")).status == 200  # there is a connection
    with capture_logs() as logs, no_descriptors():
        response = await client.get("/oss/genes")
        assert (response.status, b"ServiceUnavailable" in await response.read()) == (503, True)
        response = await client.post("/ga4gh/wes/v1/runs", json=calls["/ga4gh/wes/v1/runs"])
        assert (response.status, response.headers["Retry-After"]) == (503, "5")
        assert "too many files are open" in (await response.json())["msg"]
    assert not any("exc_info" in log for log in logs)
    assert (await client.get("/oss/genes")).status == 200


def test_a_lack_is_found_behind_other_errors() -> None:
    cause = EngineFault("the run's process could not start")
    cause.__cause__ = OSError(errno.EMFILE, "Too many open files")
    assert out_of_files(cause) is not None
    assert out_of_files(OSError(errno.ENFILE, "")) is not None
    assert out_of_files(RuntimeError("can't start new thread")) is not None
    assert out_of_files(RuntimeError("another reason")) is None
    assert out_of_files(OSError(errno.ENOENT, "")) is None
    assert out_of_files(EngineFault("another reason")) is None
