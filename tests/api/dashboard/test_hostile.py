"""Results of users' workflows with hostile contents: no page trusts them."""

import asyncio
import json
import pkgutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp import hdrs
from api.dashboard.conftest import Client, Read, Submit
from unit.runs.test_store import a_run
from yarl import URL

from wesemu.dashboard import variants
from wesemu.errors import InvalidRequest, NotFound
from wesemu.runs.model import OutputFile
from wesemu.runs.run_directory import Workspace
from wesemu.runs.service import RunService
from wesemu.settings import Settings
from wesemu.storage.buckets import Buckets

VCF = (
    "##fileformat=VCFv4.2\n##contig=<ID=chr1,length=100>\n"
    "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
)
CALL = "chr1\t5\t.\tA\tC\t30\tPASS\t.\n"
VCF += CALL


async def test_htslib_opens_no_result_of_a_users_own_workflow(
    submit: Submit, runs: RunService, settings: Settings
) -> None:
    run = await submit([{"write": "results/calls.vcf", "text": VCF}])
    # CWL and WDL name their results as they like
    run = replace(run, outputs=(replace(run.outputs[0], name="vcf"),))
    buckets = Buckets(settings.data / "buckets")
    page = await asyncio.to_thread(variants.page, run, runs.workspace(run), buckets, {})
    assert (page.content["has_calls"], page.content["calls"]) == (False, [])


async def test_reports_of_a_users_own_workflow_are_not_read(read: Read, submit: Submit) -> None:
    run = await submit(
        [
            {"write": "results/summary.json", "text": "[" * 100_000},
            {"write": "results/stats.txt", "text": "COV\tx\n"},
        ]
    )
    await read(f"/ui/runs/{run.id}/results")
    page = json.loads(await read(f"/ui/runs/{run.id}/results.json"))
    assert (page["summary"], page["plots"]) == ({}, [])


_MULTIPART = "multipart/form-data; boundary=x"
_PART = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.txt"\r\n'
_PREFIX = b'--x\r\nContent-Disposition: form-data; name="prefix"'


async def test_a_name_with_two_values_is_refused(client: Client) -> None:
    for path in ("", "compare", "buckets/genes", "buckets/genes/preview", "new"):
        name = {"compare": "a", "new": "pipeline"}.get(path, "state")
        async with client.get(f"/ui/{path}?{name}=1&{name}=2") as response:
            assert response.status == 400
            assert "it has two values" in await response.text()
    form = b"name=one-bucket&name=other-bucket"
    headers = {hdrs.CONTENT_TYPE: "application/x-www-form-urlencoded"}
    async with client.post("/ui/buckets", data=form, headers=headers) as response:
        assert response.status == 400


_FORMS = (
    *(
        (page, kind, body)
        for page in ("new?pipeline=mapping", "emulator", "buckets", "login")
        for kind, body in (
            (_MULTIPART, b"garbage"),
            ("application/x-www-form-urlencoded", b"a=\xff"),
            ("application/x-www-form-urlencoded; charset=nothing", b"a=b"),
        )
    ),
    ("new?pipeline=nothing", "application/x-www-form-urlencoded", b"first=a"),
    ("buckets/genes", "text/plain", b""),
    ("buckets/genes", "multipart/form-data", b"garbage"),
    ("buckets/genes", _MULTIPART, b"garbage"),
    ("buckets/genes", _MULTIPART, _PART + b"\r\nhello"),
    ("buckets/genes", _MULTIPART, _PART + b"Content-Encoding: nothing\r\n\r\nhello\r\n--x--"),
    ("buckets/genes", _MULTIPART, _PREFIX + b"\r\n\r\n\xff\r\n--x--"),
)


async def test_a_malformed_form_is_refused_and_changes_nothing(
    client: Client, settings: Settings
) -> None:
    buckets = settings.data / "buckets"
    before = sorted(path.name for path in buckets.rglob("*") if path.is_file())
    for page, kind, body in _FORMS:
        headers = {hdrs.CONTENT_TYPE: kind}
        async with client.post(f"/ui/{page}", data=body, headers=headers) as response:
            assert response.status == 400, (page, kind, body)
    assert sorted(path.name for path in buckets.rglob("*") if path.is_file()) == before


async def test_no_path_leads_out_of_the_results(
    client: Client, submit: Submit, settings: Settings
) -> None:
    run = await submit([{"write": "results/a.txt", "text": "hello"}])
    for path in (
        "..%2Fstate.json",
        "results/..%2F..%2F..%2F..%2Fwesemu.db",
        quote(str(settings.data / "wesemu.db"), safe=""),
        "results%2F..%2Fresults%2Fa.txt",
        "%2E",
        "%2E%2E",
        "%00",
        "a%00",
    ):
        url = URL(f"/ui/runs/{run.id}/outputs/{path}", encoded=True)
        async with client.get(url) as response:
            assert response.status == 404, path


async def test_the_end_of_a_huge_line_is_shown(read: Read, submit: Submit) -> None:
    run = await submit([{"task": "align", "stderr": "x" * 200_000 + "end"}])
    page = json.loads(await read(f"/ui/runs/{run.id}/logs.json", task="1-1"))
    stderr = next(log for log in page["logs"] if log["name"] == "stderr")
    assert stderr["cut"]
    [line] = stderr["lines"]
    assert line["text"].endswith("xend")
    text = await read(f"/ui/runs/{run.id}/logs", task="1-1", q="nothing")
    assert "No line of the end matches" in text


async def test_of_many_tasks_the_failed_ones_are_listed_and_the_others_counted(
    read: Read, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wesemu.dashboard.run_page._MOST_TASKS", 2)
    run = await submit([{"task": "a"}, {"task": "b"}, {"task": "c", "exit_code": 1}])
    page = json.loads(await read(f"/ui/runs/{run.id}/logs.json"))
    assert [task["name"] for task in page["tasks"]] == ["c", "a"]
    assert page["left_out"] == 1
    assert "1 more attempts" in await read(f"/ui/runs/{run.id}/logs")


async def test_large_pages_are_made_beside_the_event_loop(
    read: Read, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await submit([{"task": "align"}])
    threads: dict[str, set[int]] = {}
    for name in (
        "wesemu.runs.serialization.row_to_task",
        *(f"wesemu.dashboard.run_page.{page}" for page in ("overview", "logs")),
        *(f"wesemu.dashboard.run_routes.{page}" for page in ("timeline", "graph")),
        "wesemu.dashboard.pages.Pages.render_now",
    ):
        function = pkgutil.resolve_name(name)

        def noted(*args: Any, _name: str = name, _function: Any = function, **named: Any) -> Any:
            threads.setdefault(_name, set()).add(threading.get_ident())
            return _function(*args, **named)

        monkeypatch.setattr(name, noted)
    for part in ("", "/timeline", "/graph", "/logs"):
        await read(f"/ui/runs/{run.id}{part}")
    assert len(threads) == 6
    assert all(threading.get_ident() not in seen for seen in threads.values())


def calls(folder: Path, text: str, **query: str) -> dict[str, Any]:
    """Return the page of a bundled pipeline's run with these calls."""
    pytest.importorskip("pysam")
    workspace = Workspace(folder)
    workspace.outputs.mkdir()
    (workspace.outputs / "calls.vcf").write_text(text)
    run = replace(a_run("wgs"), outputs=(OutputFile("vcf", "calls.vcf", len(text)),))
    return dict(variants.page(run, workspace, Buckets(folder), query).content)


def test_calls_need_no_depth_in_the_header(tmp_path: Path) -> None:
    [call] = calls(tmp_path, VCF)["calls"]
    assert (call["position"], call["quality"], call["depth"]) == (5, 30.0, None)


def test_a_quality_that_is_no_number_is_null(tmp_path: Path) -> None:
    [call] = calls(tmp_path, VCF.replace("\t30\t", "\tinf\t"))["calls"]
    assert call["quality"] is None


@pytest.mark.parametrize("quality", ["nan", "inf", "x"])
def test_a_filter_that_is_no_number_is_refused(tmp_path: Path, quality: str) -> None:
    with pytest.raises(InvalidRequest, match="number"):
        calls(tmp_path, VCF, quality=quality)


@pytest.mark.parametrize(
    ("alleles", "kind"),
    [
        *(("C", "snp"), ("AC", "indel"), ("C,AC", "indel"), (".", "other"), ("<DEL>", "other")),
        *(("A[chr1:9[", "other"), ("]chr1:9]A", "other"), (".A", "other"), ("C,*", "other")),
    ],
)
def test_calls_have_a_kind(tmp_path: Path, alleles: str, kind: str) -> None:
    [call] = calls(tmp_path, VCF.replace("\tA\tC\t", f"\tA\t{alleles}\t"))["calls"]
    assert call["kind"] == kind


@pytest.mark.parametrize("text", ["", "garbage", VCF + "chr1\tx\n"])
def test_damaged_calls_are_named(tmp_path: Path, text: str) -> None:
    with pytest.raises(NotFound, match="calls of the run id-wgs cannot be read") as refused:
        calls(tmp_path, text)
    assert str(tmp_path) not in refused.value.message


def test_calls_of_one_position_are_on_one_page(tmp_path: Path) -> None:
    content = calls(tmp_path, VCF + CALL * 150 + CALL.replace("5", "6", 1))
    assert {call["position"] for call in content["calls"]} == {5}
    assert len(content["calls"]) == 151
    assert content["next"].endswith("contig=chr1&start=5")
