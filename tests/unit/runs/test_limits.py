"""Limits of runs and of owners."""

import asyncio

import pytest
from aiohttp.test_utils import TestServer
from unit.runs.test_recovery import runs_of, submit_scripted
from unit.runs.test_service import ended

from wesemu.app import create_app
from wesemu.errors import TooManyRuns
from wesemu.runs.clock import ManualClock
from wesemu.runs.model import LOCAL_OWNER, Owner, RunState
from wesemu.settings import LimitSettings, Settings
from wesemu.testing.fake_engine import ScriptedEngine


async def limited(settings: Settings, clock: ManualClock, **limits: float) -> TestServer:
    settings = settings.model_copy(update={"limits": LimitSettings(**limits)})  # type: ignore[arg-type]
    server = TestServer(await create_app(settings, engines=[ScriptedEngine(clock)]))
    await server.start_server()
    return server


@pytest.mark.parametrize(
    ("limits", "setting"),
    [({"run_minutes": 0.0005}, "limits.run_minutes"), ({"bytes": 1000}, "limits.bytes")],
)
async def test_a_run_that_exceeds_a_limit_is_ended(
    settings: Settings, clock: ManualClock, limits: dict[str, float], setting: str
) -> None:
    server = await limited(settings, clock, **limits)
    run = await submit_scripted(runs_of(server), {"wait": "for ever"})
    run = await ended(runs_of(server), run)
    assert run.state is RunState.EXECUTOR_ERROR
    assert run.failure is not None
    assert setting in run.failure.message
    await server.close()


async def test_runs_within_the_limits_are_left_alone(
    settings: Settings, clock: ManualClock
) -> None:
    server = await limited(settings, clock, run_minutes=60, bytes=10**9, runs_per_owner=5)
    run = await submit_scripted(runs_of(server), {"write": "a.txt", "text": "a"})
    assert (await ended(runs_of(server), run)).state is RunState.COMPLETE
    await server.close()


async def test_an_owner_has_so_many_runs_at_a_time(settings: Settings, clock: ManualClock) -> None:
    server = await limited(settings, clock, runs_per_owner=3)
    runs = runs_of(server)
    asked = [submit_scripted(runs, {"wait": "gate"}) for _ in range(8)]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, TooManyRuns)]
    accepted = [answer for answer in answers if not isinstance(answer, BaseException)]
    assert (len(accepted), len(refused)) == (3, 5)
    assert "limits.runs_per_owner" in refused[0].message
    assert len(list((settings.data / "runs").iterdir())) == 3

    await runs.cancel(LOCAL_OWNER, accepted[0].id)
    await ended(runs, accepted[0])
    await submit_scripted(runs, {"wait": "gate"})
    await server.close()


async def test_other_owners_have_their_own_number(settings: Settings, clock: ManualClock) -> None:
    server = await limited(settings, clock, runs_per_owner=1)
    runs = runs_of(server)
    await submit_scripted(runs, {"wait": "gate"})
    with pytest.raises(TooManyRuns):
        await submit_scripted(runs, {"wait": "gate"})
    await submit_scripted(runs, {"wait": "gate"}, owner=Owner("alice"))
    await server.close()
