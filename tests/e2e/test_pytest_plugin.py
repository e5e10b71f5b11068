"""The pytest plugin in a folder without configuration."""

import os
import re
import subprocess
import sys
import time
from importlib.metadata import entry_points
from pathlib import Path
from textwrap import dedent

import pytest

pytest_plugins = ["pytester"]

PAGE = Path(__file__).parents[2] / "docs" / "pytest.md"

CONTRACT = """
import pytest
from wesemu import Client

def test_client(wesemu):
    sample = wesemu.reads(pairs=500, snps=3)          # FASTQ pair, reference and truth in a bucket of their own
    run = wesemu.run("mapping", reads=sample, bam="out/a.bam").wait(timeout=60)
    assert run.state == "COMPLETE"
    assert run.counts.reads == 1000 and run.sla.minutes == 60
    assert run.outputs["bam"].url == f"oss://{sample.bucket}/out/a.bam"
    assert wesemu.requests[-1].operation

@pytest.mark.wesemu(engine="real")
def test_real(wesemu, tmp_path):
    sample = wesemu.reads(pairs=2000, snps=3)
    run = wesemu.run("wgs", reads=sample, vcf="out/a.vcf.gz").wait(timeout=120)
    assert run.outputs["vcf"].download(tmp_path).stat().st_size > 0

def test_clock_and_faults(wesemu):
    wesemu.bucket("inputs", {"a/b.txt": b"hello"})
    assert wesemu.bucket("inputs").get("a/b.txt") == b"hello"
    wesemu.faults.add(operation="StartWorkflow", status=503, times=1)
    before = wesemu.clock.now()
    wesemu.clock.advance(minutes=80)
    assert (wesemu.clock.now() - before).total_seconds() >= 4800

def test_own_snakefile(wesemu):
    run = wesemu.submit("rule all:\\n    output: 'o.txt'\\n    shell: 'echo hi > o.txt'\\n").wait()
    assert run.state == "COMPLETE"

def test_sync_client(wesemu):
    client = Client(wesemu.url)
    assert client.ready()
"""  # noqa: E501 - the contract, word for word

FAILING = """
import pytest

def test_fails(wesemu):
    wesemu.bucket("bad", {"1.fq": b"x", "2.fq": b"y", "r.fa": b">a\\nACGTACGTACGT\\n"})
    run = wesemu.run("mapping", bucket="bad", reads=("1.fq", "2.fq"), reference="oss://bad/r.fa")
    assert run.wait(60).state == "COMPLETE"

@pytest.mark.wesemu(engine="imaginary")
def test_wrong_engine(wesemu):
    pass
"""

SESSION = """
def test_one(wesemu_session):
    wesemu_session.bucket("kept", {"a": "b"})

def test_two(wesemu_session):
    assert wesemu_session.bucket("kept").get("a") == b"b"
"""


@pytest.fixture
def bare(pytester, monkeypatch):
    """Run pytest in a process, in a folder with these tests and nothing else. Warnings of unclosed
    things and unknown marks are errors."""

    def run(*options: str, **files: str):
        for name in list(os.environ):
            if name.startswith(("PYTEST_", "COV_CORE")):
                monkeypatch.delenv(name)
        monkeypatch.setenv("TMPDIR", str(pytester.mkdir("tmp")))
        pytester.makepyfile(**files)
        strict = [
            "error::ResourceWarning",
            "error::pytest.PytestUnraisableExceptionWarning",
            "error::pytest.PytestUnhandledThreadExceptionWarning",
            "error::pytest.PytestUnknownMarkWarning",
        ]
        warnings = [option for each in strict for option in ("-W", each)]
        return pytester.runpytest_subprocess("-p", "no:cacheprovider", *warnings, *options)

    return run


def servers(folder: Path) -> set[str]:
    """The processes of the plugin's servers that were started below `folder`."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if b"wesemu.testing.server" in (process / "cmdline").read_bytes() and str(
                (process / "cwd").readlink()
            ).startswith(str(folder)):
                found.add(process.name)
        except OSError:
            continue
    return found


def test_the_contract_holds_on_two_workers_and_nothing_is_left(bare, pytester) -> None:
    first = re.search(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    done = bare(
        *("-n", "2", "--dist", "loadfile"),
        test_contract=CONTRACT,
        test_failing=FAILING,
        test_session=SESSION,
        test_page=first[1],
    )
    done.assert_outcomes(passed=8, failed=1, errors=1)
    text = done.stdout.str()
    assert "run " in text
    assert "EXECUTOR_ERROR" in text
    assert "oss://bad/1.fq" in text
    assert "200 RunWorkflow" in text
    assert "engine is scripted or real, not 'imaginary'" in text
    assert servers(pytester.path) == set()
    assert [path.name for path in (pytester.path / "tmp").glob("wesemu*")] == []


def test_the_plugin_imports_nothing_before_a_fixture_is_used(bare) -> None:
    test = """
    import sys

    def test_nothing():
        loaded = {name for name in sys.modules if name.partition(".")[0] == "wesemu"}
        assert loaded <= {"wesemu", "wesemu.testing", "wesemu.testing.plugin"}
        assert "aiohttp" not in sys.modules
    """
    bare("-p", "no:asyncio", "-p", "no:aiohttp", test_lazy=dedent(test)).assert_outcomes(passed=1)


def test_the_plugin_can_be_switched_off(bare) -> None:
    done = bare("-p", "no:wesemu", test_off="def test_off(wesemu):\n    pass\n")
    done.assert_outcomes(errors=1)
    done.stdout.fnmatch_lines("*fixture 'wesemu' not found*")


def test_a_server_ends_with_a_killed_test_process(tmp_path) -> None:
    script = """
    import os, signal
    from wesemu.testing.emulator import EmulatorServer
    EmulatorServer("scripted", {})
    os.kill(os.getpid(), signal.SIGKILL)
    """
    subprocess.run(
        [sys.executable, "-c", dedent(script)],
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        check=False,
        timeout=120,
    )
    deadline = time.monotonic() + 60
    while servers(tmp_path) or list(tmp_path.glob("wesemu-*")):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_server_that_cannot_start_says_why() -> None:
    from wesemu.testing.emulator import EmulatorServer, ServerFailed

    with pytest.raises(ServerFailed, match="no_such_setting"):
        EmulatorServer("scripted", {"no_such_setting": 1})


def test_the_entry_point_is_declared() -> None:
    found = [each.value for each in entry_points(group="pytest11") if each.name == "wesemu"]
    assert found == ["wesemu.testing.plugin"]
