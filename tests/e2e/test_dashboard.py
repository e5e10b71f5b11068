"""The dashboard in a browser (Debian's chromium), over real runs of the sample in testdata."""

import importlib.util
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from support.live_server import LiveServer, live_server

from wesemu.dashboard import viewer_script

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
axe_module = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe")

CHROMIUM = shutil.which("chromium")
SAMPLE = Path(__file__).resolve().parents[2] / "testdata" / "diploid"

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium"),
]

WAITING = """
    rule all:
        input: "b.txt"
    rule first:
        output: "a.txt"
        shell: "echo 'line one' >&2; touch {output}"
    rule second:
        input: "a.txt"
        output: "b.txt"
        shell: "echo waiting >&2; while [ ! -e gate ]; do sleep 0.05; done; touch {output}"
    """

FAILING = """
    rule all:
        input: "b.txt"
    rule first:
        output: "a.txt"
        shell: "touch {output}"
    rule second:
        input: "a.txt"
        output: "b.txt"
        params: gate=config.get("gate", "")
        retries: 1
        shell: "[ '{params.gate}' ] || {{ echo 'fatal: no gate' >&2; exit 3; }}; touch {output}"
    """


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server with the sample in the bucket `sample` and as the reference `diploid`."""
    if not viewer_script.SCRIPT.exists():
        viewer_script.main()
    folder = tmp_path_factory.mktemp("dashboard")
    data = folder / "data"
    shutil.copytree(SAMPLE, data / "buckets" / "sample")
    (data / "buckets" / "sample" / "targets.bed").write_text("sim1\t0\t33334\nsim2\t0\t16666\n")
    (data / "buckets" / "sample" / "reference").mkdir()
    shutil.copy(SAMPLE / "reference.fa", data / "buckets" / "sample" / "reference" / "genome.fa")
    with live_server(folder) as started:
        yield started


@pytest.fixture(scope="module")
def called(server: LiveServer) -> str:
    """The id of a finished run of wgs."""
    params = {
        "reads": [{"first": "oss://sample/reads_1.fq.gz", "second": "oss://sample/reads_2.fq.gz"}],
        "reference": "oss://sample/reference",
        "bam": "oss://sample/out/a.bam",
        "vcf": "oss://sample/out/a.vcf.gz",
        "targets": "oss://sample/targets.bed",
        "reports": ["multiqc"] if importlib.util.find_spec("multiqc") else [],
    }
    answer = requests.post(
        f"{server.url}/runs",
        data={
            "workflow_url": "wgs",
            "workflow_type": "SMK",
            "workflow_type_version": "9",
            "workflow_params": json.dumps(params),
        },
        timeout=60,
    )
    assert answer.status_code == 200, answer.text
    run = server.wait(answer.json()["run_id"])
    assert run.state == "COMPLETE", run.notes
    return run.url.rpartition("/")[2]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def page(
    browser: Any, server: LiveServer, request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[Any]:
    """A page that accepts dialogs. The test fails after a console error or a request elsewhere.

    The temporary folder of a failed test keeps a screenshot.
    """
    failed = request.session.testsfailed
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    context.set_default_timeout(60_000)
    opened = context.new_page()
    faults: list[str] = []
    opened.on("console", lambda said: faults.append(said.text) if said.type == "error" else None)
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.on("dialog", lambda dialog: dialog.accept())
    opened.on("request", lambda sent: faults.append(sent.url) if _elsewhere(sent, server) else None)
    yield opened
    if request.session.testsfailed > failed:
        opened.screenshot(path=tmp_path / "failed.png", full_page=True)
    context.close()
    assert faults == []


def _elsewhere(request: Any, server: LiveServer) -> bool:
    return not request.url.startswith((server.home, "data:", "blob:"))


def _open_gate(server: LiveServer, run: str) -> None:
    (server.data / "runs" / run / "work" / "gate").touch()


def test_the_page_of_a_run_follows_it(page: Any, server: LiveServer) -> None:
    run = server.start("SMK", WAITING)
    page.goto(f"{server.home}/ui/runs/{run}")
    page.get_by_text("second: 1 of").wait_for()
    _open_gate(server, run)
    page.locator(".state", has_text="complete").wait_for()
    page.locator(".lead", has_text="Complete").wait_for()


def test_a_log_is_followed(page: Any, server: LiveServer) -> None:
    run = server.start("SMK", WAITING)
    page.goto(f"{server.home}/ui/runs/{run}/logs")
    page.locator("option", has_text="second").wait_for(state="attached")
    page.locator("#task").select_option(label="first")
    page.get_by_text("line one").first.wait_for()
    _open_gate(server, run)
    page.locator(".state", has_text="complete").wait_for()


def test_a_run_is_canceled_from_its_page(page: Any, server: LiveServer) -> None:
    run = server.start("SMK", WAITING)
    page.goto(f"{server.home}/ui/runs/{run}")
    page.get_by_role("button", name="Cancel").click()
    page.locator(".state", has_text="canceled").wait_for()
    assert server.wait(run).state == "CANCELED"


def test_the_table_shows_a_new_run_without_a_reload(page: Any, server: LiveServer) -> None:
    page.goto(f"{server.home}/ui/?q=live%3Dyes")
    page.get_by_text("No run matches").wait_for()
    answer = requests.post(
        f"{server.url}/runs",
        data={
            "workflow_url": "Snakefile",
            "workflow_type": "SMK",
            "workflow_type_version": "9",
            "tags": json.dumps({"live": "yes"}),
        },
        files={"workflow_attachment": ("Snakefile", b"rule all:\n    output: touch('o')\n")},
        timeout=60,
    )
    assert answer.status_code == 200, answer.text
    page.locator("tbody .state", has_text="complete").wait_for()


def test_a_page_says_that_the_server_does_not_answer_until_it_does(
    page: Any, server: LiveServer
) -> None:
    page.clock.install()
    page.route("**/ui/events", lambda route: route.fulfill(status=204))  # as if a proxy answered
    page.goto(f"{server.home}/ui/")
    notice = page.get_by_text("The server does not answer")
    notice.wait_for()
    page.unroute("**/ui/events")
    page.clock.fast_forward(3000)
    notice.wait_for(state="detached")


def test_files_are_uploaded_by_the_form(page: Any, server: LiveServer) -> None:
    page.goto(f"{server.home}/ui/buckets/sample?prefix=new/")
    file = {"name": "ä b.txt", "mimeType": "text/plain", "buffer": b"hello"}
    page.locator("#files").set_input_files([file])
    page.get_by_role("button", name="Upload", exact=True).click()
    page.get_by_text("oss://sample/new/ä b.txt").wait_for()
    assert (server.data / "buckets" / "sample" / "new" / "ä b.txt").read_bytes() == b"hello"


def test_a_run_starts_from_two_chosen_files_after_a_dry_run(page: Any, server: LiveServer) -> None:
    page.goto(f"{server.home}/ui/buckets/sample")
    for mate in (1, 2):
        page.get_by_label(f"Choose reads_{mate}.fq.gz").check()
    page.get_by_role("button", name="Start a run with the chosen files").click()
    assert page.get_by_label("first mates").input_value() == "oss://sample/reads_1.fq.gz"
    assert page.get_by_label("second mates").input_value() == "oss://sample/reads_2.fq.gz"
    page.get_by_label("reference", exact=True).fill("oss://sample/reference")
    page.get_by_label("bam", exact=True).fill("oss://sample/out/chosen.bam")
    page.get_by_role("button", name="Dry run").click()
    plan = page.get_by_role("status", name="Dry run")
    plan.get_by_text("about 1 h 0 min").wait_for()
    plan.get_by_text("oss://sample/out/chosen.bam", exact=True).wait_for()
    page.get_by_role("button", name="Start", exact=True).click()
    page.wait_for_url("**/ui/runs/*")
    page.get_by_role("button", name="Cancel").click()
    page.locator(".state", has_text="canceled").wait_for()


def test_a_key_is_copied_and_a_fault_is_added_in_the_browser(page: Any, server: LiveServer) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto(f"{server.home}/ui/buckets/sample/preview?key=reads_1.fq.gz")
    page.get_by_role("button", name="Copy").click()
    page.get_by_text("Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == "oss://sample/reads_1.fq.gz"
    page.goto(f"{server.home}/ui/emulator")
    page.get_by_text("Add a fault for requests").click()
    page.get_by_label("Operation", exact=True).fill("ListRuns")
    page.get_by_label("Status of the answer").fill("418")
    page.get_by_role("button", name="Add").first.click()
    page.get_by_role("cell", name="ListRuns").wait_for()
    assert requests.get(f"{server.url}/runs", timeout=60).status_code == 418


def test_the_viewer_shows_a_known_variant_and_its_reads(
    page: Any, server: LiveServer, called: str
) -> None:
    if not viewer_script.SCRIPT.exists():
        pytest.skip("the viewer could not be fetched")
    truth = [
        line.split("\t")
        for line in (SAMPLE / "truth.vcf").read_text().splitlines()
        if not line.startswith("#")
    ]
    contig, position = next((row[0], row[1]) for row in truth if len(row[3]) == len(row[4]) == 1)
    ranges: list[str] = []
    page.on("request", lambda sent: ranges.append(sent.url) if "range" in sent.headers else None)
    page.goto(f"{server.home}/ui/runs/{called}/variants")
    page.get_by_role("link", name=f"{contig}:{position}", exact=True).click()
    page.locator("#viewer[data-ready=true]").wait_for()
    for track in ("Reads", "Calls", "Truth", "Targets"):
        page.locator("#viewer .igv-track-label", has_text=track).wait_for()
    shown = page.locator("#viewer .igv-search-input").input_value()
    first, last = (int(number.replace(",", "")) for number in shown.split(":")[1].split("-"))
    assert first <= int(position) <= last
    assert any(url.endswith(".bam") for url in ranges)


def test_missed_and_false_calls_of_a_fixture_are_listed(server: LiveServer, called: str) -> None:
    content = requests.get(f"{server.home}/ui/runs/{called}/variants.json", timeout=60).json()
    truth = content["truth"]
    assert truth["error"] is None
    expected = sum(
        not line.startswith("#") for line in (SAMPLE / "truth.vcf").read_text().splitlines()
    )
    assert truth["found"] + len(truth["missed"]) == pytest.approx(expected, abs=3)
    assert truth["found"] > 0.9 * expected


def test_calls_are_filtered_and_paged(server: LiveServer, called: str) -> None:
    address = f"{server.home}/ui/runs/{called}/variants.json"
    every: list[tuple[str, int, str]] = []
    following: str | None = address
    while following:
        body = requests.get(following, timeout=60).json()
        every += [(call["contig"], call["position"], call["kind"]) for call in body["calls"]]
        following = body["next"] and server.home + body["next"].replace(
            "variants?", "variants.json?"
        )
    assert len(set(every)) == len(every) > 0
    snps = requests.get(address, params={"kind": "snp"}, timeout=60).json()["calls"]
    assert {call["kind"] for call in snps} == {"snp"}
    contig, position, _ = every[3]
    params: dict[str, str | int] = {"contig": contig, "start": position - 1}
    later = requests.get(address, params=params, timeout=60).json()["calls"]
    assert (later[0]["contig"], later[0]["position"]) == (contig, position)
    for wrong in ({"contig": "nothing"}, {"kind": "nothing"}, {"quality": "x"}):
        assert requests.get(address, params=wrong, timeout=60).status_code == 400


def test_the_graph_shows_what_runs_and_what_waits(page: Any, server: LiveServer) -> None:
    run = server.start("SMK", WAITING)
    page.goto(f"{server.home}/ui/runs/{run}/graph")
    page.locator(".node-done").wait_for()
    page.locator(".node-running").wait_for()
    assert page.locator("path.edge").count() == 1
    rows = page.locator("tbody tr").all_inner_texts()
    assert [row.split("\t")[:3] for row in rows] == [
        ["first", "done", "1 / 1"],
        ["second", "running", "0 / 1"],
    ]
    _open_gate(server, run)
    page.locator(".state", has_text="complete").wait_for()
    assert page.locator(".node-done").count() == 2


def test_a_failed_run_is_resumed_and_its_attempts_are_side_by_side(
    page: Any, server: LiveServer
) -> None:
    run = server.run("SMK", FAILING)
    page.goto(f"{server.home}/ui/runs/{run.folder.name}")
    page.locator(".lead", has_text="Failed: ").wait_for()
    page.get_by_role("link", name="Its log").click()
    page.get_by_role("heading", name="Attempt 2").wait_for()
    assert page.locator(".sides section").count() == 2
    assert page.get_by_text("3: the command reports an error").count() == 2
    page.get_by_text("First error, line 1: fatal: no gate").wait_for()
    page.get_by_role("link", name="Timeline").click()
    assert page.locator("tbody .part-failed").count() == 2
    page.get_by_role("button", name="Resume").click()
    page.get_by_text("1 task will run: second.").wait_for()
    page.get_by_label("Changed parameters").fill('{"gate": "open"}')
    page.get_by_role("button", name="Start a new run").click()
    page.locator(".lead", has_text="Complete: 1 task").wait_for()


def test_a_report_runs_in_its_frame(page: Any, server: LiveServer, called: str) -> None:
    if importlib.util.find_spec("multiqc") is None:
        pytest.skip("needs multiqc")
    page.goto(f"{server.home}/ui/runs/{called}/results")
    page.locator("#reports").scroll_into_view_if_needed()
    frame = page.frame_locator("iframe.report")
    frame.get_by_role("heading", name="General Statistics").wait_for()
    frame.locator("#loading_warning").wait_for(state="hidden")  # its scripts have run
    assert page.locator("figure").count() >= 10


def test_two_runs_are_chosen_and_compared(page: Any, server: LiveServer, called: str) -> None:
    page.goto(f"{server.home}/ui/runs/{called}")
    page.get_by_role("button", name="Compare").click()
    page.get_by_label("Second run").fill(called)
    page.locator("main").get_by_role("button", name="Compare").click()
    page.get_by_text("0 of them have another genotype").wait_for()
    content = requests.get(page.url.replace("/ui/compare?", "/ui/compare.json?"), timeout=60).json()
    assert content["calls"]["found"] > 0
    assert (content["calls"]["missed"], content["calls"]["false"]) == ([], [])
    assert all(output["same"] for output in content["outputs"])


@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_has_a_serious_fault_of_accessibility_or_scrolls_sideways(
    browser: Any, server: LiveServer, called: str, width: int, scheme: str
) -> None:
    run = f"runs/{called}"
    pages = ["", run, f"{run}/timeline", f"{run}/graph", f"{run}/logs", f"{run}/results"]
    pages += [
        f"{run}/variants",
        f"{run}/request",
        f"{run}/rerun",
        f"compare?a={called}&b={called}",
        "new",
        "new?pipeline=",
        "emulator",
        "buckets",
        "buckets/sample",
        "buckets/sample/preview?key=reads_1.fq.gz",
        "node",
        "node/storage",
        "api",
        "login",
    ]
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    opened = context.new_page()
    found: list[str] = []
    for path in pages:
        opened.goto(f"{server.home}/ui/{path}")
        opened.evaluate("document.querySelectorAll('details').forEach((each) => each.open = true)")
        # the viewer's own controls are igv.js's
        result = axe_module.Axe().run(opened, context={"exclude": [["#viewer"]]})
        found += [
            f"{path}: {fault['id']}: {fault['nodes'][0]['html'][:100]}"
            for fault in result.response["violations"]
            if fault["impact"] in ("serious", "critical")
        ]
        if opened.evaluate("document.documentElement.scrollWidth") > width:
            found.append(f"{path}: scrolls sideways")
    context.close()
    assert found == []


def test_keys_search_and_open_a_run(page: Any, server: LiveServer, called: str) -> None:
    page.goto(f"{server.home}/ui/")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.name") == "q"
    page.keyboard.type(called)
    page.keyboard.press("Enter")
    page.wait_for_url("**/ui/?q=*")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/ui/runs/{called}")
    page.keyboard.press("g")
    page.keyboard.press("b")
    page.wait_for_url("**/ui/buckets")
