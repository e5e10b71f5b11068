"""A user's own mapper gives the same results as the same mapper built in."""

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pysam
import pytest

from wesemu.genomics.reference import ReferenceStore

# what maps as bwa here, called as a mapper of somebody's would be; DROP loses a pair
SCRIPT = """
import os, shutil, subprocess, sys, tempfile
threads, group, reference, first, second = sys.argv[1:]
from wesemu.genomics.tools import resolve
bwa = resolve().mapper("bwa")
if bwa.name == "bwa-mem3":  # whose index is not beside the reference
    folder = tempfile.TemporaryDirectory()
    reference = shutil.copy(reference, folder.name)
    subprocess.run([*bwa.command, "index", reference], check=True)
words = [sys.executable, "-P", "-m", "wesemu.genomics.align", "--threads", threads]
words += ["--reference", reference, "--reads", first, second, "--read-group", group]
words += ["--counts", os.devnull, "--error", "mapper.json"]
if bwa.name == "bwa-mem3":
    words += ["--bwa-mem3"]
elif bwa.source != "wheel":
    words += ["--bwa", bwa.shell]
done = subprocess.run(words, stdout=subprocess.PIPE, check=True)
text = done.stdout
if text[:1] != b"@":
    tools = resolve().samtools.command
    text = subprocess.run([*tools, "view", "-h", "-"], input=text, stdout=subprocess.PIPE).stdout
lines = text.splitlines(keepends=True)
if "DROP" in os.environ:
    name = lines[-1].split(b"\\t")[0]
    lines = [line for line in lines if not line.startswith(name + b"\\t")]
group = os.environ.get("GROUP")
if group is not None:
    lines = [line.replace(b"\\tRG:Z:a", group.encode()) for line in lines]
sys.stdout.buffer.write(b"".join(lines))
sys.exit(int(os.environ.get("STATUS", "0")))
"""


@pytest.fixture
def own(tmp_path: Path) -> dict[str, object]:
    script = tmp_path / "my mapper.py"
    script.write_text(SCRIPT)
    words = shlex.join([sys.executable, "-P", str(script)])
    command = f"{words} {{threads}} {{read_group}} {{reference}} {{first}} {{second}}"
    return {"own_mapper": {"name": "mine", "command": command}}


def records(bam: Path) -> list[str]:
    with pysam.AlignmentFile(str(bam)) as file:
        return [read.to_string() for read in file.fetch(until_eof=True)]


def test_the_results_are_those_of_the_same_mapper_built_in(workflow, config, own, tmp_path):
    odd = tmp_path / "a 'b' $(c);d"
    odd.mkdir()
    lane = {}
    for mate, path in config["reads"][0].items():
        shutil.copy(path, odd / Path(path).name)
        lane[mate] = str(odd / Path(path).name)
    config |= {"reads": [config["reads"][0], lane]}
    builtin = workflow("mapping", "builtin").succeed(config)
    results = workflow("mapping", "own").succeed(config | own)
    assert records(results / "aligned.bam") == records(builtin / "aligned.bam")
    for name in ("reads.json", "flagstat.json", "markdup.json"):
        assert (results / name).read_text() == (builtin / name).read_text()
    assert json.loads((results / "summary.json").read_text())["tools"]["mine"] == "unknown"
    with pysam.AlignmentFile(str(results / "aligned.bam")) as bam:
        assert [program["ID"] for program in bam.header["PG"]] == ["mine", "samtools"]
        assert len(bam.header["RG"]) == 2


def test_a_read_that_did_not_come_out_is_noticed(workflow, config, own, monkeypatch):
    monkeypatch.setenv("DROP", "1")
    run = workflow("mapping")
    assert run.run(config | own).returncode != 0
    assert "primary records for" in run.read("logs/statistics.log")


@pytest.fixture
def step(config, own, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """The mapping alone, as its rule does it, with another second file perhaps."""

    def run(second: Path | None = None) -> subprocess.CompletedProcess[bytes]:
        store = ReferenceStore(tmp_path / "references", tmp_path / "cache")
        fasta = store.ready(Path(config["reference"]))
        lane = config["reads"][0]
        words = [sys.executable, "-P", "-m", "wesemu.genomics.own_mapper", "--name", "mine"]
        words += ["--command", own["own_mapper"]["command"], "--reference", str(fasta)]
        words += ["--reads", lane["first"], str(second or lane["second"])]
        words += ["--read-group", "@RG\\tID:a\\tSM:a", "--counts", "c.json", "--error", "e.json"]
        return subprocess.run(words, cwd=tmp_path, capture_output=True, timeout=60, check=False)

    return run


def test_a_mapper_that_fails_is_reported(step, tmp_path, monkeypatch):
    monkeypatch.setenv("STATUS", "7")
    done = step()
    assert done.returncode == 69
    assert b"mapper mine ended with status 7" in done.stderr
    assert not (tmp_path / "e.json").exists()
    assert not (tmp_path / "c.json").exists()


@pytest.mark.parametrize("tag", ["", "\tRG:Z:ab"])
def test_records_without_the_read_group_are_noticed(step, monkeypatch, tag):
    """With them freebayes writes an empty VCF."""
    monkeypatch.setenv("GROUP", tag)
    done = step()
    assert done.returncode == 69
    assert b"mapper mine writes records without the tag RG:Z:a; it must" in done.stderr


def test_bad_reads_are_reported_though_the_mapper_opens_them_itself(step, tmp_path, fixture_folder):
    cut = tmp_path / "cut_2.fq.gz"
    cut.write_bytes((fixture_folder / "reads_2.fq.gz").read_bytes()[:20_000])
    assert step(cut).returncode == 65
    assert json.loads((tmp_path / "e.json").read_text())["file"] == str(cut)
