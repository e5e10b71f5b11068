"""The choice of tools: settings, then PATH, then wheels; quick starts."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from wesemu.errors import ToolMissing
from wesemu.genomics.reference_state import CHANGED, write_state
from wesemu.genomics.tools import Tool, resolve, version_number
from wesemu.genomics.wheel_tools import program_command, wheel_command
from wesemu.settings import Settings

NOWHERE = "/nonexistent"


def fake(folder: Path, name: str, words: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{words}'\n")
    path.chmod(0o755)
    return path


def run(*words: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, check=False, **options)


def test_the_wheels_are_the_last_resort():
    tools = resolve(path=NOWHERE)
    assert [tool.source for tool in tools.all] == ["wheel"] * 3
    assert tools.samtools.command == wheel_command("samtools")
    assert version_number(tools.samtools.version) >= (1, 24)


def test_an_older_native_samtools_is_passed_over_and_a_newer_one_taken(tmp_path):
    fake(tmp_path, "samtools", "samtools 1.16.1")
    newer = fake(tmp_path, "bcftools", "bcftools 9.1")
    tools = resolve(path=str(tmp_path))
    assert tools.samtools.source == "wheel"
    assert (tools.bcftools.source, tools.bcftools.command) == ("path", (str(newer),))


@pytest.mark.parametrize(("version", "source"), [("0.7.17-r1188", "path"), ("0.7.12", "wheel")])
def test_a_native_bwa_is_preferred_if_not_too_old(tmp_path, version, source):
    fake(tmp_path, "bwa", f"Version: {version}")
    assert resolve(path=str(tmp_path)).bwa.source == source


def test_settings_win(tmp_path):
    old = fake(tmp_path, "old", "samtools 1.2")
    tools = resolve({"samtools": str(old), "bwa": "wheel"}, path=NOWHERE)
    assert (tools.samtools.source, tools.samtools.version) == ("settings", "1.2")
    assert tools.bwa.source == "wheel"


@pytest.mark.parametrize("command", ["/nonexistent/samtools", "false"])
def test_settings_that_do_not_work_are_an_error(command):
    with pytest.raises(ToolMissing, match=r"tools\.samtools"):
        resolve({"samtools": command}, path=NOWHERE)


def test_the_setting_takes_every_tool_by_environment_or_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("wesemu.toml").write_text(
        '[tools]\nsamtools = "./bin/samtools"\n"bwa-mem2" = "env -u X bwa-mem2"\n'
    )
    monkeypatch.setenv("WESEMU_TOOLS__BWA", "wheel")
    monkeypatch.setenv("WESEMU_TOOLS__BWA_MEM2", "'/opt/my tools/bwa-mem2' -v")
    assert Settings().tools == {
        "bwa": "wheel",
        "bwa-mem2": "'/opt/my tools/bwa-mem2' -v",
        # tasks run in folders of their own
        "samtools": str(tmp_path / "bin" / "samtools"),
    }


@pytest.mark.parametrize(
    ("tools", "told"),
    [
        ({"bowtie": "bowtie"}, "no tool 'bowtie'; use one of bwa, samtools"),
        ({"bwa": ""}, "is empty"),
        ({"bwa": "'bwa"}, "cannot be read"),
        ({"minimap2": "wheel"}, "has no wheel"),
    ],
)
def test_a_setting_that_is_no_command_is_refused_at_the_start(tools, told):
    with pytest.raises(ValidationError, match=told):
        Settings.model_validate({"tools": tools})


def test_a_tool_that_is_nowhere_is_an_error(monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(ToolMissing, match="neither on PATH"):
        resolve(path=NOWHERE)


def test_wheel_tools_stream_and_tell_their_exit_status(tmp_path):
    samtools = wheel_command("samtools")
    sam = "@SQ\tSN:a\tLN:9\nr\t0\ta\t1\t9\t2M\t*\t0\t0\tAC\tII\n"
    bam = subprocess.run(
        [*samtools, "view", "-b", "-"], input=sam.encode(), capture_output=True, check=True
    ).stdout
    count = subprocess.run(
        [*samtools, "view", "-c", "-"], input=bam, capture_output=True, check=True
    )
    assert count.stdout == b"1\n"
    missing = run(*samtools, "view", str(tmp_path / "none"))
    assert missing.returncode == 1
    assert "No such file" in missing.stderr
    assert run(*wheel_command("bcftools"), "view", str(tmp_path / "none")).returncode == 255


def test_a_wheel_tool_whose_reader_goes_away_dies_of_it(tmp_path):
    sam = tmp_path / "many.sam"
    sam.write_text("@SQ\tSN:a\tLN:9\n" + "r\t0\ta\t1\t9\t2M\t*\t0\t0\tAC\tII\n" * 50_000)
    view = " ".join(wheel_command("samtools"))
    script = f"{view} view {sam} | head -1 >/dev/null; echo ${{PIPESTATUS[0]}}"
    assert run("bash", "-c", script).stdout == "141\n"


SAMTOOLS = Tool("samtools", wheel_command("samtools"), "1.24", "wheel")


def bash(script: str) -> subprocess.CompletedProcess[str]:
    return run("bash", "-o", "pipefail", "-c", script)


def test_a_pipe_of_the_wheel_gives_what_separate_processes_give(tmp_path):
    sam = tmp_path / "reads.sam"
    reads = [f"r{n}\t0\ta\t{n}\t9\t2M\t*\t0\t0\tAC\tII\n" for n in (5, 3, 4)]
    sam.write_text("@SQ\tSN:a\tLN:9\n" + "".join(reads))
    commands = [f"view --no-PG -u {sam}", "sort --no-PG -u -", "view --no-PG -"]
    separate = bash(" | ".join(f"{SAMTOOLS.shell} {command}" for command in commands))
    assert separate.stdout == "".join(sorted(reads, key=lambda read: read.split("\t")[3]))
    piped = bash(SAMTOOLS.piped(*commands))
    assert (piped.returncode, piped.stdout) == (0, separate.stdout)


def test_a_pipe_of_a_native_tool_is_one_of_the_shell():
    native = Tool("samtools", ("/opt/my tools/samtools",), "1.24", "path")
    assert native.piped("view a", "sort -") == (
        "'/opt/my tools/samtools' view a | '/opt/my tools/samtools' sort -"
    )


@pytest.mark.parametrize(
    ("commands", "status"),
    [
        (("view -u /nonexistent", "view -c -"), 1),
        # the first command has more to write than a pipe holds
        (("view -u {sam}", "view --nonsense"), 1),
        (("view {sam}", "--version"), 128 + 13),
    ],
)
def test_a_pipe_of_the_wheel_fails_and_ends_if_a_command_does(tmp_path, commands, status):
    sam = tmp_path / "many.sam"
    sam.write_text("@SQ\tSN:a\tLN:9\n" + "r\t0\ta\t1\t9\t2M\t*\t0\t0\tAC\tII\n" * 50_000)
    given = [command.format(sam=sam) for command in commands]
    assert bash(SAMTOOLS.piped(*given)).returncode == status


def test_a_full_disk_is_reported():
    script = " ".join(wheel_command("samtools")) + " --version > /dev/full"
    assert run("bash", "-c", script).returncode != 0


def test_a_program_starts_like_a_module_and_returns_its_status(tmp_path):
    fasta, state, error = tmp_path / "ref.fa", tmp_path / "state.json", tmp_path / "error.json"
    fasta.write_text(">a\nAC\n")
    write_state(state, fasta, [fasta])
    command = [*program_command("reference_state"), str(state), str(error)]
    assert run(*command).returncode == 0
    fasta.write_text(">a\nACGT\n")
    changed = run(*command)
    assert changed.returncode == CHANGED
    assert "was replaced while this run used it" in changed.stderr
    assert json.loads(error.read_text())["file"] == str(fasta)


@pytest.mark.parametrize("name", ["align", "prepare_reference", "qc", "summary"])
def test_a_program_of_every_run_imports_nothing_slow_that_it_rarely_needs(name):
    script = f"import sys; sys.path[:] = {sys.path!r}; import wesemu.genomics.{name} as program;"
    loaded = run(sys.executable, "-PS", "-c", f"{script} print(program.__name__, *sys.modules)")
    modules = set(loaded.stdout.split())
    assert f"wesemu.genomics.{name}" in modules
    assert not modules & {"dataclasses", "inspect", "tempfile", "wesemu.util.text"}


def test_the_wheel_has_only_the_index_of_bwa():
    assert run(*wheel_command("bwa"), "mem").returncode == 1
    assert run(*wheel_command("minimap2")).returncode == 2
