"""Reports of MultiQC and Snakemake: on request, complete, without a network."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from wesemu.errors import ToolMissing
from wesemu.genomics.reports import NEEDS, check_reports

# every Python of the run notes where it connects to (2 and 10: IPv4 and IPv6)
LISTENING = """
import os, sys
def hear(event, arguments):
    if event in ("socket.getaddrinfo", "socket.gethostbyname") or (
        event == "socket.connect" and arguments[0].family in (2, 10)
    ):
        with open({file!r}, "a") as file:
            file.write(f"{{sys.argv}} {{arguments[1:]}}\\n")
sys.addaudithook(hear)
"""
ABSENT = "import sys; sys.modules['multiqc'] = None"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`site(code)` is run by every Python that the test starts."""

    def write(code: str) -> None:
        (tmp_path / "site").mkdir()
        (tmp_path / "site" / "sitecustomize.py").write_text(code)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))

    return write


def test_both_reports_of_a_run(workflow, config, site, tmp_path):
    missing = [package for package in NEEDS.values() if not is_installed(package)]
    if missing:
        pytest.skip(f"the extra `reports` is not installed: {missing}")
    connections = tmp_path / "connections"
    site(LISTENING.format(file=str(connections)))
    look_up = "import socket; socket.getaddrinfo('127.0.0.1', 80)"
    subprocess.run([sys.executable, "-P", "-c", look_up], check=True)
    assert connections.exists()
    connections.unlink()
    more = {"sample": "NA12878", "reports": ["multiqc", "snakemake"]}
    run = workflow("wgs", "über here")
    results = run.succeed(config | more)
    said = run.read("logs/multiqc.log")
    for kind in ("stats", "flagstat", "idxstats", "markdup"):
        assert re.search(rf"samtools \| Found 1 {kind} reports", said), said
    assert "bcftools | Found 1 stats reports" in said
    multiqc = (results / "multiqc.html").read_text()
    assert "NA12878" in multiqc
    assert str(tmp_path) not in multiqc
    snakemake = (results / "report.html").read_text()
    assert all(name in snakemake for name in ("multiqc.html", "call", "statistics", "samtools"))
    assert not re.search(r'(?:src|href)="https?://[^"]*\.(?:js|css)"', snakemake)
    assert not connections.exists(), connections.read_text()
    assert not list(results.glob(".multiqc-*"))


def is_installed(package: str) -> bool:
    try:
        check_reports([name for name, needed in NEEDS.items() if needed == package])
    except ToolMissing:
        return False
    return True


def test_without_multiqc_nothing_runs(workflow, config, site):
    site(ABSENT)
    run = workflow("mapping")
    done = run.run(config | {"reports": ["multiqc"]})
    assert done.returncode != 0
    assert "pip install 'wesemu[reports]'" in done.stderr
    assert not (run.directory / "results").exists()


@pytest.mark.parametrize(("report", "package"), NEEDS.items())
def test_a_package_that_is_missing_is_named(monkeypatch, report, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ToolMissing, match=rf"{report}.*{package}.*reports"):
        check_reports([report])
    check_reports([])
