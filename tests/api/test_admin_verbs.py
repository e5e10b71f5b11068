"""`wesemu reset`, `clock`, `faults` and `--token` against the whole server."""

import asyncio
import json

import pytest
from api.test_verbs import MAPPING, WGS, send, wesemu
from support.scripted import START
from support.waiting import soon

from wesemu.app import STARTING
from wesemu.cli.admin import parse_length
from wesemu.cli.output import CommandRefused, ExitStatus
from wesemu.client.control import ControlOperations
from wesemu.runs.model import LOCAL_OWNER, Pacing
from wesemu.settings import Settings

__all__ = ["wesemu"]


async def test_the_clock_is_shown_and_steered(wesemu) -> None:
    status, out, _ = await wesemu("clock", "show", "--json")
    assert status == 0
    shown = json.loads(out)
    assert (shown["speed"], shown["pace"]) == (1.0, "real")
    assert shown["now"] == f"{START:%Y-%m-%dT%H:%M:%SZ}"
    _, out, _ = await wesemu("clock", "advance", "1h20m", "--json")
    assert json.loads(out)["now"] == "2020-01-15T09:50:25Z"
    _, out, _ = await wesemu("clock", "speed", "600")
    assert "| 2020-01-15T09:50:25Z | 2020-01-15T08:30:25Z | 600 " in out
    status, _, err = await wesemu("clock", "speed", "1e9")
    assert (status, err.count("\n")) == (ExitStatus.REFUSED, 1)
    assert (await wesemu("clock", "advance", "soon"))[0] == ExitStatus.USAGE


@pytest.mark.parametrize(
    ("text", "step"),
    [
        ("80m", {"minutes": 80}),
        ("1h20m", {"hours": 1, "minutes": 20}),
        ("2d1.5s", {"days": 2, "seconds": 1.5}),
        ("1m1m", {"minutes": 2}),
    ],
)
def test_lengths_of_time(text: str, step: dict[str, float]) -> None:
    assert parse_length(text) == step


@pytest.mark.parametrize("text", ["", "80", "m", "-1m", "1h 20m", "1w", "1e3s"])
def test_what_is_no_length_of_time(text: str) -> None:
    with pytest.raises(CommandRefused):
        parse_length(text)


async def test_faults_are_added_listed_and_cleared(wesemu, client) -> None:
    _, out, _ = await wesemu("faults", "add", "ListRuns", "--status", "503", "--times", "2")
    assert "| ListRuns  | 2     | status 503 |" in out
    flags = ("--misses-sla", "--late-minutes", "5")
    _, out, _ = await wesemu("faults", "add", "next-run", *flags, "--json")
    assert json.loads(out) == (await (await client.get("/_wesemu/faults")).json())["faults"]
    _, out, _ = await wesemu("faults", "list")
    assert "| next-run  | 1     | misses_sla, late_minutes 5 |" in out
    status, _, err = await wesemu("list")
    assert status == ExitStatus.REFUSED
    assert (await wesemu("faults", "clear"))[0] == 0
    status, out, err = await wesemu("faults", "list")
    assert (status, out, err) == (0, "", "there are no faults\n")
    assert (await wesemu("list"))[0] == 0


@pytest.mark.parametrize(
    "words",
    [
        ("next-run",),
        ("next-run", "--misses-sla", "--drop"),
        ("ListRuns",),
        ("ListRuns", "--drop", "--fails-at-task", "1"),
    ],
)
async def test_faults_of_the_wrong_kind_are_usage_errors(wesemu, words: tuple[str, ...]) -> None:
    status, _, err = await wesemu("faults", "add", *words)
    assert (status, err.count("\n")) == (ExitStatus.USAGE, 1)


async def test_an_unknown_operation_is_refused(wesemu) -> None:
    status, _, err = await wesemu("faults", "add", "Nothing", "--drop")
    assert status == ExitStatus.REFUSED
    assert "StartWorkflow" in err


async def test_reset_forgets_everything(wesemu, settings: Settings) -> None:
    await send(wesemu, *MAPPING)
    assert await wesemu("reset") == (0, "", "removed 1 run\n")
    _, out, _ = await wesemu("list", "--json")
    assert json.loads(out) == []
    assert (settings.data / "buckets" / "genes" / "out" / "a.bam").is_file()
    await wesemu("reset", "--buckets")
    assert list((settings.data / "buckets").iterdir()) == []


class TestServiceLevel:
    """At the pace of the service level."""

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(
            update={"sla": settings.sla.model_copy(update={"pace": Pacing.SLA})}
        )

    async def test_a_watched_job_is_kept_until_its_minutes_are_past(
        self, wesemu, client, runs
    ) -> None:
        watched = asyncio.create_task(wesemu(*WGS, "--watch"))
        async with soon():
            while not (page := await runs.page(LOCAL_OWNER, size=1)).runs:
                await asyncio.sleep(0.01)
            async for run in runs.follow(LOCAL_OWNER, page.runs[0].id):
                if run.counts is not None:
                    break
        assert not watched.done()
        await client.post("/_wesemu/clock/advance", json={"hours": 1})
        status, out, err = await watched
        assert status == 0
        told = "600,000 bases: 60 min, 0.0006 CNY; met; the tools took 0.000 s; pace sla"
        assert told in err
        name = json.loads(out.splitlines()[0])["JobName"]
        _, _, err = await wesemu("get", name)
        assert told in err


class TestTokens:
    """Where the server asks for credentials."""

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        auth = {"tokens": {"secret": "alice", "other": "bob"}, "ags_keys": {"LTAIx": "y"}}
        return Settings.model_validate(settings.model_dump() | {"auth": auth})

    async def test_a_token_opens_every_verb(self, wesemu, monkeypatch) -> None:
        status, _, err = await wesemu("list")
        assert (status, "Bearer" in err) == (ExitStatus.REFUSED, True)
        assert "--token TOKEN or WESEMU_TOKEN" in err
        monkeypatch.setenv("WESEMU_TOKEN", "secret")
        name = await send(wesemu, *MAPPING)
        assert (await wesemu("get", name))[0] == 0
        assert (await wesemu("logs", name))[0] == 0
        assert (await wesemu("get", name, "--token", "other"))[0] == ExitStatus.REFUSED
        assert (await wesemu("cancel", name))[0] == 0
        assert (await wesemu("remove", name))[0] == 0


async def test_ready_names_what_the_server_waits_for(wesemu, client, monkeypatch) -> None:
    url = str(client.make_url("/"))
    assert await wesemu("ready") == (0, f"{url} is ready\n", "")
    starting = client.app[STARTING]
    starting.append("a script runs")
    reason = f"wesemu: {url}: not ready: a script runs\n"
    assert await wesemu("ready") == (ExitStatus.FAILED, "", reason)
    check = ControlOperations.check_ready

    async def check_and_start(control: ControlOperations) -> None:
        try:
            await check(control)
        finally:
            starting.clear()

    monkeypatch.setattr(ControlOperations, "check_ready", check_and_start)
    assert (await wesemu("ready", "--wait", "1m"))[0] == 0


async def test_ready_tells_that_no_server_answers(wesemu) -> None:
    nowhere = ("--server", "http://127.0.0.1:1")
    for wait in ((), ("--wait", "0.1s")):
        status, out, err = await wesemu("ready", *nowhere, *wait)
        assert (status, out, err.count("\n")) == (ExitStatus.UNREACHABLE, "", 1)
