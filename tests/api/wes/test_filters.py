"""Filters of ListRuns by state and by tag (extensions)."""

import pytest
from api.wes.fixtures import Client, Ended, Submit, fetch

RUNS = "/ga4gh/wes/v1/runs"


async def listed(wes: Client, query: str, base: str = RUNS) -> list[str]:
    async with wes.get(f"{base}?{query}") as answer:
        body = await answer.json()
        assert answer.status == 200, body
        return [run["run_id"] for run in body["runs"]]


async def test_runs_by_state(wes: Client, submit: Submit, ended: Ended) -> None:
    done, failed = await submit([]), await submit([{"task": "a", "exit_code": 1}])
    for run_id in (done, failed):
        await ended(run_id)
    waiting = await submit([{"wait": "never"}])
    assert await listed(wes, "state=COMPLETE") == [done]
    assert await listed(wes, "state=complete,EXECUTOR_ERROR") == [failed, done]
    assert await listed(wes, "state=COMPLETE&state=EXECUTOR_ERROR") == [failed, done]
    assert await listed(wes, "state=QUEUED,INITIALIZING,RUNNING") == [waiting]
    assert await listed(wes, "state=PAUSED,PREEMPTED") == []
    assert await listed(wes, "state=") == [waiting, failed, done]


async def test_runs_by_tag(wes: Client, submit: Submit) -> None:
    first = await submit([], tags={"project": "x", "url": "http://a"})
    second = await submit([], tags={"project": "x"})
    await submit([], tags={"project": "y"})
    assert await listed(wes, "tag=project:x") == [second, first]
    assert await listed(wes, "tag=project:x&tag=url:http://a") == [first]
    assert await listed(wes, "tag=project:x&tag=project:y") == []
    assert await listed(wes, "tag=project:z") == []


async def test_a_filter_holds_for_every_page(wes: Client, submit: Submit) -> None:
    sent = []
    for _ in range(3):
        sent.append(await submit([], tags={"project": "x"}))
        await submit([])
    query = {"tag": "project:x", "page_size": "2"}
    first = await fetch(wes, RUNS, **query)
    second = await fetch(wes, RUNS, **query, page_token=first["next_page_token"])
    assert [run["run_id"] for run in first["runs"] + second["runs"]] == sent[::-1]
    assert second["next_page_token"] == ""
    other = {"page_token": first["next_page_token"]}
    assert "page_token" in (await fetch(wes, RUNS, 400, **other))["msg"]
    assert "page_token" in (await fetch(wes, RUNS, 400, tag="project:y", **other))["msg"]


async def test_canceling_is_found_as_it_is_shown(wes: Client, submit: Submit) -> None:
    await fetch(wes, RUNS, 400, state="CANCELING")
    assert await listed(wes, "state=CANCELING", f"/1.0.0{RUNS}") == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("state", "DONE"), ("state", "RUNNING,x"), ("state", "\0"), ("tag", "project"),
        ("tag", ":x"), ("tag", "a:" + "x" * 300), ("tag", "wesemu.handle:abcde"),
    ],
)  # fmt: skip
async def test_a_senseless_filter_is_400_and_named(wes: Client, name: str, value: str) -> None:
    assert (await fetch(wes, RUNS, 400, **{name: value}))["msg"].startswith(name)


async def test_more_than_eight_tags_are_400(wes: Client) -> None:
    async with wes.get(RUNS + "?" + "&".join(f"tag=a:{n}" for n in range(9))) as answer:
        assert answer.status == 400
