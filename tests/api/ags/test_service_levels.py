"""Jobs with `sla.pace = "sla"`, on a manual wall clock."""

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from api.ags.conftest import MAPPING, WGS, Client, Reach, Start, reads
from support.scripted import START, scripted_engine
from support.waiting import soon

from wesemu.app import RUNS, create_app
from wesemu.runs.clock import ManualClock
from wesemu.runs.data_directory import IdSource
from wesemu.runs.model import LOCAL_OWNER, JsonObject, Pacing, RunState
from wesemu.runs.service import RunService
from wesemu.settings import Settings
from wesemu.testing.fake_engine import ScriptedEngine

pytestmark = pytest.mark.usefixtures("bucket")

GENOME: JsonObject = MAPPING | {"wesemu_bases": "120e9"}
"""A few reads that stand for 120 Gbp: 80 minutes at silver."""

MICROSECOND = timedelta(microseconds=1)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(
        update={
            "clock": settings.clock.model_copy(update={"speed": 600.0}),
            "sla": settings.sla.model_copy(update={"pace": Pacing.SLA}),
        }
    )


async def told(client: Client, name: str) -> dict[str, Any]:
    return dict(await (await client.get(f"/gs/workflow/{name}")).json())


async def tools_ended(runs: RunService, name: str) -> None:
    """The job's tools are done and it waits for its end."""
    run_id = (await runs.by_handle(LOCAL_OWNER, name.rpartition("-")[2])).id
    async with soon():
        async for run in runs.follow(LOCAL_OWNER, run_id):
            assert run.state.active
            if run.counts is not None:
                return


async def control(client: Client, path: str, body: JsonObject) -> dict[str, Any]:
    response = await client.post(f"/_wesemu/{path}", json=body)
    assert response.status == 200, await response.text()
    return dict(await response.json())


async def test_a_job_keeps_its_service_level_s_pace(
    client: Client, start: Start, reach: Reach, runs: RunService, clock: ManualClock, bucket: Path
) -> None:
    name = await start(GENOME)
    await tools_ended(runs, name)
    clock.advance(timedelta(seconds=8) - MICROSECOND)
    running = await told(client, name)
    assert (running["status"], running["duration"]) == ("Running", "1h19m59.9994s")
    assert running["sla_predicted_finish"] == "2020-01-15 17:50:25 +0800 CST"
    assert running["finish_time"] == "0001-01-01 00:00:00 +0000 UTC"
    assert not (bucket / "output").exists()
    clock.advance(MICROSECOND)
    run = await reach(name, RunState.COMPLETE)
    done = await told(client, name)
    assert (done["status"], done["duration"]) == ("Succeeded", "1h20m0s")
    assert done["create_time"] == "2020-01-15 16:30:25 +0800 CST"
    assert done["finish_time"] == "2020-01-15 17:50:25 +0800 CST"
    assert (done["sla_minutes"], done["sla_price_cny"]) == ("80", "60")
    assert (done["sla_met"], done["sla_charged_cny"]) == ("true", "60")
    assert (bucket / "output/bamDirName/abc.bam").read_text() == "BAM"
    assert run.real_seconds == 0


async def test_counted_and_pretended_sizes_are_distinguished(
    client: Client, start: Start, reach: Reach, runs: RunService, clock: ManualClock
) -> None:
    name = await start(GENOME)
    await tools_ended(runs, name)
    clock.advance(timedelta(seconds=8))
    run = await reach(name, RunState.COMPLETE)
    done = await told(client, name)
    assert (done["total_bases"], done["sla_bases"]) == ("600000", "120000000000")
    assert done["user_input_data"].endswith('"wesemu_bases":"120e9"}')
    log = await (await client.get(f"/ga4gh/wes/v1/runs/{run.id}")).json()
    tags = log["request"]["tags"]
    assert (tags["wesemu.total_bases"], tags["wesemu.sla.bases"]) == ("600000", "120000000000")
    assert (tags["wesemu_bases"], tags["wesemu.pace"]) == ("120e9", "sla")
    assert log["run_log"]["start_time"] == "2020-01-15T08:30:25Z"
    assert log["run_log"]["end_time"] == "2020-01-15T09:50:25Z"
    assert tags["wesemu.real.seconds"] == "0.000"
    assert log["task_logs"][0]["end_time"] == "2020-01-15T08:30:25Z"


async def test_an_advance_ends_it_at_once(
    client: Client, start: Start, reach: Reach, runs: RunService
) -> None:
    name = await start(GENOME)
    await tools_ended(runs, name)
    await control(client, "clock/advance", {"minutes": 79})
    assert (await told(client, name))["status"] == "Running"
    await control(client, "clock/advance", {"minutes": 1})
    await reach(name, RunState.COMPLETE)
    assert (await told(client, name))["duration"] == "1h20m0s"


async def test_a_fault_makes_it_miss_its_service_level_and_it_is_free(
    client: Client, start: Start, reach: Reach, runs: RunService, clock: ManualClock
) -> None:
    await control(client, "faults", {"next_run": {"misses_sla": True, "late_minutes": 5}})
    name = await start(GENOME)
    await tools_ended(runs, name)
    clock.advance(timedelta(seconds=8))
    late = await told(client, name)
    assert (late["status"], late["duration"]) == ("Running", "1h20m0s")
    clock.advance(timedelta(seconds=0.5))
    await reach(name, RunState.COMPLETE)
    done = await told(client, name)
    assert (done["status"], done["duration"]) == ("Succeeded", "1h25m0s")
    assert (done["sla_met"], done["sla_price_cny"], done["sla_charged_cny"]) == ("false", "60", "0")
    other = await start(GENOME)
    await tools_ended(runs, other)
    clock.advance(timedelta(seconds=8))
    await reach(other, RunState.COMPLETE)
    assert (await told(client, other))["sla_met"] == "true"


async def test_tools_that_are_slower_than_the_service_level_do_not_make_it_late(
    client: Client, start: Start, reach: Reach, clock: ManualClock, engine: ScriptedEngine
) -> None:
    name = await start(WGS | reads("wait-1") | {"wesemu_bases": "94e9"})
    await reach(name, RunState.RUNNING)
    clock.advance(timedelta(minutes=1))
    running = await told(client, name)
    assert (running["status"], running["duration"]) == ("Running", "47m0s")
    engine.release("wait-1")
    await reach(name, RunState.COMPLETE)
    done = await told(client, name)
    assert (done["duration"], done["sla_met"]) == ("47m0s", "true")


async def test_cancelling_while_it_waits_works_at_once(
    client: Client, start: Start, reach: Reach, runs: RunService, clock: ManualClock, bucket: Path
) -> None:
    name = await start(GENOME)
    await tools_ended(runs, name)
    clock.advance(timedelta(seconds=4))
    await client.put(f"/gs/workflow/{name}", json={"action": "cancel"})
    run = await reach(name, RunState.CANCELED)
    done = await told(client, name)
    assert (done["status"], done["duration"]) == ("Failed", "40m0s")
    assert "sla_met" not in done
    assert not (bucket / "output").exists()
    assert run.outputs == ()


async def test_a_failed_job_fails_at_once(client: Client, start: Start, reach: Reach) -> None:
    name = await start(WGS | reads("fail") | {"wesemu_bases": "120e9"})
    await reach(name, RunState.EXECUTOR_ERROR)
    done = await told(client, name)
    assert (done["status"], done["duration"]) == ("Failed", "0s")
    assert "sla_charged_cny" not in done


async def test_jobs_that_wait_for_their_end_hold_no_room(
    client: Client, start: Start, runs: RunService
) -> None:
    for number in range(8):
        await tools_ended(runs, await start(GENOME | {"mapping_bam_out_filename": f"{number}.bam"}))


async def test_a_hundred_jobs_in_the_queue_are_no_reason_to_wait(
    client: Client, start: Start, reach: Reach
) -> None:
    await reach(await start(WGS | reads("wait-1")), RunState.RUNNING)
    names = [
        await start(WGS | reads("wait-1") | {"wgs_vcf_File_name": f"{number}.vcf"})
        for number in range(100)
    ]
    jobs = (await (await client.get("/gs/workflows")).json())["jobs"]
    assert [job["job_name"] for job in jobs[:100]] == names[::-1]
    assert {job["status"] for job in jobs} == {"Pending", "Running"}


async def test_a_restart_goes_on_waiting(
    aiohttp_client: Any, settings: Settings, clock: ManualClock, bucket: Path
) -> None:
    engine = scripted_engine(clock)

    async def server() -> tuple[Client, web.Application]:
        app = await create_app(settings, clock=clock, ids=IdSource(), engines=[engine])
        return await aiohttp_client(app), app

    first, app = await server()
    name = (await (await first.post("/gs/workflow", json=GENOME)).json())["JobName"]
    await tools_ended(app[RUNS], name)
    clock.advance(timedelta(seconds=4))
    await first.close()
    second, app = await server()
    assert (await told(second, name))["status"] == "Running"
    clock.advance(timedelta(seconds=3))
    assert (await told(second, name))["duration"] == "1h10m0s"
    clock.advance(timedelta(seconds=1))
    async with soon():
        while (done := await told(second, name))["status"] == "Running":
            await asyncio.sleep(0)
    assert (done["status"], done["duration"]) == ("Succeeded", "1h20m0s")
    assert (bucket / "output/bamDirName/abc.bam").is_file()


@pytest.mark.parametrize("bases", ["many", "0", "1.5", "-1", "1e16", "NaN", "1e99", "12_0"])
async def test_a_size_that_is_none_is_refused_by_the_caller_s_own_name(
    client: Client, bases: str
) -> None:
    response = await client.post("/gs/workflow", json=MAPPING | {"Wesemu_Bases": bases})
    answer = await response.json()
    assert (response.status, answer["Code"]) == (400, "InvalidParameter")
    assert answer["Message"].startswith("The parameter Wesemu_Bases: ")


async def test_more_bases_end_later_and_a_better_tier_earlier_on_the_clock_too(
    client: Client, start: Start, reach: Reach, runs: RunService
) -> None:
    sizes, tiers = ("1e9", "90e9", "120e9", "300e9"), ("p", "g", "s")
    ends: dict[tuple[str, str], Any] = {}
    for tier in tiers:
        for size in sizes:
            body = {"service": tier, "wesemu_bases": size}
            name = await start(MAPPING | body | {"mapping_bam_out_filename": f"{tier}{size}.bam"})
            await tools_ended(runs, name)
            await control(client, "clock/advance", {"hours": 5})
            run = await reach(name, RunState.COMPLETE)
            assert run.started is not None
            assert run.ended is not None
            ends[tier, size] = run.ended - run.started
    for tier in tiers:
        took = [ends[tier, size] for size in sizes]
        assert took == sorted(took)
    for size in sizes:
        took = [ends[tier, size] for tier in tiers]
        assert took == sorted(took)
    assert (await runs.page(LOCAL_OWNER, size=99)).runs[-1].created == START


@pytest.mark.parametrize("word", ["n", "N", "normal", "Normal"])
async def test_the_normal_level_promises_nothing(
    client: Client, start: Start, reach: Reach, word: str
) -> None:
    """In the pace of service levels it ends with its tools all the same."""
    name = await start(GENOME | {"service": word})
    run = await reach(name, RunState.COMPLETE)
    done = await told(client, name)
    assert (done["status"], run.service_level.value) == ("Succeeded", "n")
    assert not [key for key in done if key.startswith("sla_")]
    assert f'"mapping_service":"{word}"' in done["user_input_data"]
    log = await (await client.get(f"/ga4gh/wes/v1/runs/{run.id}")).json()
    promises = {key for key in log["request"]["tags"] if key.startswith("wesemu.sla.")}
    assert promises == {"wesemu.sla.level"}


@pytest.mark.parametrize(
    ("word", "minutes"), [("silver", "80"), ("Gold", "60"), ("PLATINUM", "40")]
)
async def test_levels_have_names(
    client: Client, start: Start, reach: Reach, runs: RunService, word: str, minutes: str
) -> None:
    name = await start(GENOME | {"service": word})
    await tools_ended(runs, name)
    assert (await told(client, name))["sla_minutes"] == minutes
    await control(client, "clock/advance", {"minutes": 80})
    await reach(name, RunState.COMPLETE)
