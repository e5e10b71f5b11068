"""`POST /runs/{run_id}/resume`: a new run of an earlier request."""

import base64
from typing import Any

from api.wes.fixtures import Client, Ended, Submit, fetch

from wesemu.api.wes.models import PREFIX
from wesemu.runs.resume import RESUMES

RUNS = f"{PREFIX}/runs"

SCRIPT = [{"task": "align"}, {"write": "out/a.txt", "text": "a"}, {"write": "log", "text": "l"}]


async def resumed(wes: Client, run_id: str, body: Any = None, status: int = 200) -> dict[str, Any]:
    response = await wes.post(f"{RUNS}/{run_id}/resume", json=body)
    assert response.status == status, await response.text()
    return dict(await response.json())


async def test_the_request_is_submitted_again_with_changes(
    wes: Client, submit: Submit, ended: Ended
) -> None:
    first = await submit(SCRIPT, tags={"project": "x"})
    await ended(first)
    changes = {"workflow_params": {"sample": "s2"}}
    second = (await resumed(wes, first, changes))["run_id"]
    assert second != first
    await ended(second)
    request = (await fetch(wes, f"{RUNS}/{second}"))["request"]
    assert request["workflow_params"] == {"script": SCRIPT, "sample": "s2"}
    assert (request["tags"]["project"], request["tags"][RESUMES]) == ("x", first)
    assert (await fetch(wes, f"{RUNS}/{second}/status"))["state"] == "COMPLETE"


async def test_recorded_outputs_are_hard_links_and_nothing_else_is_reused(
    wes: Client, submit: Submit, ended: Ended, settings: Any, tmp_path: Any
) -> None:
    first = await submit(SCRIPT)
    await ended(first)
    runs = settings.data / "runs"
    work = runs / first / "work"
    records = work / ".snakemake" / "metadata"
    records.mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("secret")
    (work / "linked").symlink_to(tmp_path / "outside")
    for name in ("out/a.txt", "Snakefile", "linked/secret", "../../x", "/etc/passwd", "gone"):
        (records / base64.urlsafe_b64encode(name.encode()).decode()).write_text("{}")
    (records / "no base64!").write_text("{}")
    body = {"workflow_params": {"script": [{"task": "align"}]}}
    second = (await resumed(wes, first, body))["run_id"]
    await ended(second)
    new = runs / second / "work"
    assert (new / "out" / "a.txt").samefile(work / "out" / "a.txt")
    assert not (new / "Snakefile").samefile(work / "Snakefile")
    assert not (new / "log").exists()
    assert not (new / "linked").exists()
    assert (new / ".snakemake" / "metadata").is_dir()
    third = (await resumed(wes, first, {**body, "from_scratch": True}))["run_id"]
    await ended(third)
    assert not (runs / third / "work" / "out").exists()


async def test_a_dry_run_makes_no_run(wes: Client, submit: Submit, ended: Ended) -> None:
    first = await submit(SCRIPT)
    await ended(first)
    plan = await resumed(wes, first, {"dry_run": True})
    assert (plan["run_id"], plan["wesemu"]["dry_run"]) == ("", True)
    assert len((await fetch(wes, RUNS))["runs"]) == 1


async def test_a_run_must_have_ended_and_exist(wes: Client, submit: Submit, engine: Any) -> None:
    active = await submit([{"wait": "gate"}])
    await resumed(wes, active, status=409)
    engine.release("gate")
    await resumed(wes, "nobody", status=404)


async def test_wrong_bodies_are_refused(wes: Client, submit: Submit, ended: Ended) -> None:
    run_id = await submit(SCRIPT)
    await ended(run_id)
    for body, said in (
        ([], "JSON object"),
        ({"workflow_params": [1]}, "workflow_params"),
        ({"from_scratch": "yes"}, "from_scratch"),
        ({"dry_run": 1}, "dry_run"),
        ({"scratch": True}, "scratch is not known"),
    ):
        assert said in (await resumed(wes, run_id, body, status=400))["msg"]


async def test_a_body_that_is_no_text_is_refused(wes: Client, submit: Submit, ended: Ended) -> None:
    run_id = await submit(SCRIPT)
    await ended(run_id)
    bodies = [(b"\xed", "utf-8", 400), (b"{}", "unknown", 200), (b" " * 30_000, "utf-8", 413)]
    for body, charset, status in bodies:
        headers = {"Content-Type": f"application/json; charset={charset}"}
        response = await wes.post(f"{RUNS}/{run_id}/resume", data=body, headers=headers)
        assert response.status == status, await response.text()
