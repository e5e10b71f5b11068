"""`wesemu demo` with real tools and both APIs."""

import re
import shutil
import signal
import sys
import time
from pathlib import Path
from unittest.mock import Mock

import psutil
import pytest
from e2e.conftest import Ended, clear_surroundings, run_wesemu

from wesemu.cli.output import ExitStatus
from wesemu.demo.checks import REQUESTS, DemoRequest, FinishedRequest, run_checks
from wesemu.genomics.simulate.fixture import Fixture, FixtureSettings, write_fixture
from wesemu.runs.model import RunState
from wesemu.runs.run_figures import RunFigures
from wesemu.runs.sla import ServiceLevel, promise

BROWSER = f"""#!{sys.executable}
import os, signal, sys, urllib.request
with open("page.html", "wb") as page, urllib.request.urlopen(sys.argv[1]) as answer:
    page.write(answer.read())
os.kill(os.getppid(), signal.SIGINT)
"""


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    """The data directory of a demo with a browser, and what the demo said.

    The browser is a script that requests the page and then ends the demo like Ctrl-C.
    """
    folder = tmp_path_factory.mktemp("demo")
    browser = folder / "browser"
    browser.write_text(BROWSER)
    browser.chmod(0o755)
    with pytest.MonkeyPatch.context() as changes:
        clear_surroundings(changes, folder)
        changes.setenv("BROWSER", str(browser))
        ended = run_wesemu("demo", "--data", "shown", "--open", timeout=180)
    return folder / "shown", ended


def test_everything_is_right_and_can_be_looked_at(shown: tuple[Path, Ended]) -> None:
    data, ended = shown
    assert ended.returncode == 0, ended.stdout + ended.stderr
    lines = ended.stdout.splitlines()
    assert not [line for line in lines if "WRONG" in line]
    told = "\n".join(lines)
    assert re.search(r"ok +flagstat +[\d,]+ \+ 0 mapped \((99|100)\.\d+%", told)
    assert re.search(r"ok +duplicates +1,600 reads marked; simulated 1,600", told)
    assert re.search(r"ok +SNPs +precision [\d.]+  recall [\d.]+  F1 (0\.99|1\.00)", told)
    assert re.search(r"ok +indels +precision [\d.]+  recall [\d.]+  F1 (0\.9[5-9]|1\.00)", told)
    assert re.search(r"ok +wgs SLA +silver: 60 min \(met\), 0\.003 CNY", told)
    assert re.search(rf"server +has stopped; start it again: wesemu serve --data {data}", told)
    assert re.search(
        r"^page +http://127\.0\.0\.1:\d+/ui/  \(Ctrl-C stops the server\)$", told, re.MULTILINE
    )
    page = (data.parent / "page.html").read_text()
    assert page.count('class="state COMPLETE"') == 4
    for name in ("ags/mapping.bam", "wes/mapping.bam.bai", "ags/wgs.vcf.gz", "wes/wgs.vcf.gz.tbi"):
        assert (data / "buckets/demo" / name).stat().st_size
    assert _mine(data.parent) == []


def test_another_truth_and_a_changed_byte_are_found_wrong(
    shown: tuple[Path, Ended], tmp_path: Path
) -> None:
    data, ended = tmp_path / "changed", shown[1]
    assert ended.returncode == 0
    shutil.copytree(shown[0], data)
    other = write_fixture(tmp_path / "other", FixtureSettings(snps=60, duplicates=0.05))
    with (data / "buckets/demo/wes/wgs.vcf.gz").open("ab") as file:
        file.write(b"!")
    checks = run_checks(data, other, [_as_told(order, other) for order in REQUESTS])
    wrong = {check.name for check in checks if not check.ok}
    assert wrong == {"SNPs", "indels", "duplicates", "wgs.vcf.gz"}


def test_ctrl_c_ends_all_that_was_started(spawn, tmp_path: Path) -> None:
    demo = spawn("demo")
    _until(lambda: "RUNNING" in (tmp_path / "stderr.log").read_text())
    demo.send_signal(signal.SIGINT)
    assert demo.wait(60) == ExitStatus.INTERRUPTED
    assert _mine(tmp_path) == []
    assert list((tmp_path / "temporary").iterdir()) == []
    assert "Traceback" not in (tmp_path / "stderr.log").read_text()


def _as_told(order: DemoRequest, fixture: Fixture) -> FinishedRequest:
    """An order that both APIs say has gone well, with the right figures."""
    truth = fixture.summary
    tags = {"wesemu.total_reads": f"{truth.reads}", "wesemu.total_bases": f"{truth.bases}"}
    price = str(promise(ServiceLevel.SILVER, order.workflow, truth.bases).price)
    job = Mock(total_reads=truth.reads, total_bases=truth.bases, status="Succeeded")
    job.configure_mock(sla_minutes="60", sla_price_cny=price, sla_met="true")
    run = Mock(state=RunState.COMPLETE, tags=tags, figures=RunFigures.from_tags(tags))
    return FinishedRequest(order, job, run)


def _mine(folder: Path) -> list[list[str]]:
    """Command lines of processes that work for this test: they name its folder or lie in it."""
    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        command, place = process.info["cmdline"] or [], process.info["cwd"] or ""
        if process.pid != psutil.Process().pid and any(str(folder) in x for x in (*command, place)):
            found.append(command)
    return found


def _until(holds, patience: float = 60) -> None:
    end = time.monotonic() + patience
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)
