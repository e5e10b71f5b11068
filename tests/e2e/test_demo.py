"""`wesemu demo` as a new user runs it: real tools, both APIs, everything checked."""

import re
import signal
import time
from pathlib import Path

import psutil

from wesemu.cli.failures import ExitStatus


def test_everything_is_right_and_can_be_looked_at(wesemu, tmp_path: Path) -> None:
    ended = wesemu("demo", "--data", "shown", timeout=180)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    lines = ended.stdout.splitlines()
    assert not [line for line in lines if "WRONG" in line]
    told = "\n".join(lines)
    assert re.search(r"ok +flagstat +[\d,]+ \+ 0 mapped \((99|100)\.\d+%", told)
    assert re.search(r"ok +duplicates +1,600 reads marked; simulated 1,600", told)
    assert re.search(r"ok +SNPs +precision [\d.]+  recall [\d.]+  F1 (0\.99|1\.00)", told)
    assert re.search(r"ok +indels +precision [\d.]+  recall [\d.]+  F1 (0\.9[5-9]|1\.00)", told)
    assert re.search(r"ok +wgs SLA +silver: 60 min \(met\), 0\.003 CNY", told)
    assert re.search(r"server +http://127\.0\.0\.1:\d+", told)
    for name in ("ags/mapping.bam", "wes/mapping.bam.bai", "ags/wgs.vcf.gz", "wes/wgs.vcf.gz.tbi"):
        assert (tmp_path / "shown/buckets/demo" / name).stat().st_size
    assert _mine(tmp_path) == []


def test_ctrl_c_ends_all_that_was_started(spawn, tmp_path: Path) -> None:
    demo = spawn("demo")
    _until(lambda: "RUNNING" in (tmp_path / "stderr.log").read_text())
    demo.send_signal(signal.SIGINT)
    assert demo.wait(20) == ExitStatus.INTERRUPTED
    assert _mine(tmp_path) == []
    assert list((tmp_path / "temporary").iterdir()) == []
    assert "Traceback" not in (tmp_path / "stderr.log").read_text()


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
