"""The cached JSON of an ended run equals the rendered one."""

import threading

import pytest
from api.wes.fixtures import Client, Ended, Submit, absolute, fetch

from wesemu.api.wes import responses
from wesemu.api.wes.models import PREFIX, VERSIONS, WesTaskLog
from wesemu.api.wes.responses import ResponseCache
from wesemu.runs.model import TaskLog

RUNS = f"{PREFIX}/runs"


async def test_the_words_are_the_same_but_for_the_addresses(
    wes: Client, submit: Submit, ended: Ended
) -> None:
    run_id = await submit([{"task": "a"}, {"write": "x.txt", "text": "x"}], tags={"url-": "url-"})
    active = await fetch(wes, f"{RUNS}/{run_id}")
    await ended(run_id)
    first = await fetch(wes, f"{RUNS}/{run_id}")
    assert (first["state"], active["request"]["tags"]["url-"]) == ("COMPLETE", "url-")
    assert await fetch(wes, f"{RUNS}/{run_id}") == first
    own = f"http://{wes.host}:{wes.port}{RUNS}/{run_id}"
    for version in VERSIONS:
        async with wes.session.get(
            absolute(wes, f"/{version}{RUNS}/{run_id}"), headers={"Host": 'a"\\b.example'}
        ) as answer:
            text = await answer.text()
        there = f'http://a\\"\\\\b.example/{version}{RUNS}/{run_id}'
        assert text.count(there) == str(first).count(own)
        assert text.replace(there, own).count(own) == str(first).count(own)
    assert await fetch(wes, RUNS) == await fetch(wes, RUNS)


async def test_a_run_that_was_removed_is_shown_no_more(
    wes: Client, submit: Submit, ended: Ended
) -> None:
    ids = [await submit([]) for _ in range(3)]
    for run_id in ids:
        await ended(run_id)
    assert len((await fetch(wes, RUNS))["runs"]) == 3
    await fetch(wes, f"{RUNS}/{ids[1]}")
    async with wes.delete(f"{RUNS}/{ids[1]}?purge=true"):
        pass
    assert [run["run_id"] for run in (await fetch(wes, RUNS))["runs"]] == [ids[2], ids[0]]
    for below in ("", "/status", "/tasks"):
        await fetch(wes, f"{RUNS}/{ids[1]}{below}", 404)


async def test_the_log_of_a_run_is_rendered_in_a_thread(
    wes: Client, submit: Submit, ended: Ended, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 100,000 tasks that takes seconds; other requests are answered meanwhile."""
    run_id = await submit([{"task": "a"}, {"task": "b"}])
    await ended(run_id)
    render, threads = responses.task_log, list[threading.Thread]()

    def task_log(task: TaskLog, url: str) -> WesTaskLog:
        threads.append(threading.current_thread())
        return render(task, url)

    monkeypatch.setattr(responses, "task_log", task_log)
    log = await fetch(wes, f"{RUNS}/{run_id}")
    assert [task["name"] for task in log["task_logs"]] == ["a", "b"]
    assert len(threads) == 2
    assert threading.current_thread() not in threads


def test_texts_are_bounded_by_their_letters() -> None:
    texts: ResponseCache[int] = ResponseCache(2560)
    texts.put(0, "x" * 11)
    assert texts.get(0) is None
    for number in range(257):
        texts.put(number, "x" * 10)
        assert texts.get(1) is not None or number < 1
    assert texts.get(0) is None
    assert texts.get(256) == "x" * 10


async def test_lists_and_counts_follow_every_change(
    wes: Client, submit: Submit, ended: Ended
) -> None:
    """They are cached only while nothing changes."""

    async def states() -> tuple[list[str], int]:
        listed = [run["state"] for run in (await fetch(wes, RUNS))["runs"]]
        info = await fetch(wes, f"{PREFIX}/service-info")
        return listed, info["system_state_counts"]["COMPLETE"]

    assert await states() == await states() == ([], 0)
    first = await submit([])
    await ended(first)
    assert await states() == await states() == (["COMPLETE"], 1)
    await ended(await submit([]))
    assert await states() == (["COMPLETE", "COMPLETE"], 2)
    async with wes.delete(f"{RUNS}/{first}?purge=true"):
        pass
    assert await states() == (["COMPLETE"], 1)
