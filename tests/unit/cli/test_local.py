"""The verbs that need no server: fixture, reference, bucket, doctor."""

import json
import os
import resource
from pathlib import Path

import pytest
from support.sample_s import SAMPLE_S
from support.small_disk import small_disk

from wesemu.cli.doctor import HealthCheck
from wesemu.cli.output import ExitStatus
from wesemu.genomics.tools import indexer_name, resolve

INDEXES = sorted({"bwa", indexer_name("bwa", resolve)})
"""bwa-mem3's is made from bwa's, where it maps in place of bwa."""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


def test_fixture_names_its_files(wesemu, tmp_path: Path) -> None:
    ended = wesemu("fixture", tmp_path / "f", "--length", 30000, "--contigs", 1, "--depth", 1)
    assert ended.status == 0
    paths = [Path(line) for line in ended.out.splitlines()]
    names = ["reference.fa", "reads_1.fq.gz", "reads_2.fq.gz", "truth.vcf"]
    assert [path.name for path in paths] == names
    assert all(path.stat().st_size for path in paths)
    assert "200 reads of 150 bp" in ended.err


def test_fixture_gives_its_figures_as_json(wesemu, tmp_path: Path) -> None:
    flags = ("--length", 30000, "--contigs", 1, "--depth", 1, "--seed", 5, "--snps", 3)
    told = json.loads(wesemu("fixture", tmp_path, *flags, "--json").out)
    assert (told["seed"], told["snps"], told["reads"]) == (5, 3, 200)
    assert told["command"].startswith("wesemu fixture DIR --seed 5")


def test_the_command_of_a_fixture_makes_it_again(wesemu, tmp_path: Path) -> None:
    flags = ("--length", 30000, "--contigs", 1, "--depth", 2, "--duplicates", 0.2)
    first = json.loads(wesemu("fixture", tmp_path / "a", *flags, "--json").out)
    words = first["command"].replace("DIR", str(tmp_path / "b")).split()
    again = json.loads(wesemu(*words[1:], "--json").out)
    assert again["sha256"] == first["sha256"]


def test_a_fixture_that_cannot_be_is_refused(wesemu, tmp_path: Path) -> None:
    ended = wesemu("fixture", tmp_path, "--depth", -1)
    assert ended.status == ExitStatus.USAGE
    assert ended.err.startswith("wesemu: depth is -1")


@pytest.mark.parametrize(
    ("flag", "value", "reason"),
    [
        ("--length", 10**20, "length is"),
        ("--snps", 10**9, "SNPs and indels do not fit"),
        ("--indels", 10**9, "SNPs and indels do not fit"),
    ],
)
def test_a_fixture_that_cannot_fit_is_refused_at_once(
    wesemu, tmp_path: Path, flag: str, value: int, reason: str
) -> None:
    ended = wesemu("fixture", tmp_path, flag, value)
    assert ended.status == ExitStatus.USAGE
    assert reason in ended.err


def test_a_reference_is_added_and_listed(wesemu, tmp_path: Path, data: Path) -> None:
    fasta = tmp_path / "tiny.fa"
    fasta.write_text(">chr1\n" + "ACGTTGCATGCAAC" * 50 + "\n")
    added = wesemu("reference", "add", "tiny", fasta, "--data", data)
    assert added.status == 0, added.err
    assert Path(added.out.strip()).is_file()
    listed = json.loads(wesemu("reference", "list", "--data", data, "--json").out)
    assert listed == [
        {
            "name": "tiny",
            "fasta": added.out.strip(),
            "sequences": 1,
            "alternates": 0,
            "indexes": INDEXES,
        }
    ]
    assert "| tiny |" in wesemu("reference", "list", "--data", data).out


def test_alt_contigs_of_a_reference_are_reported(wesemu, tmp_path: Path, data: Path) -> None:
    fasta = SAMPLE_S.write_reference(tmp_path / "ref.fa", alternate=True)
    assert wesemu("reference", "add", "s", fasta, "--data", data).status == 0
    assert "| 1 used " in wesemu("reference", "list", "--data", data).out
    found = json.loads(wesemu("doctor", "--data", data, "--json").out)
    told = next(each for each in found if each["name"] == "reference s")
    assert told["found"] == f"ALT contigs: 1 used; indexed for {' and '.join(INDEXES)}"


def test_that_there_are_no_references_is_reported_on_stderr(wesemu, data: Path) -> None:
    ended = wesemu("reference", "list", "--data", data)
    assert (ended.status, ended.out) == (0, "")
    assert "wesemu reference add" in ended.err


def test_a_reference_that_is_none_is_refused(wesemu, tmp_path: Path, data: Path) -> None:
    (tmp_path / "page.fa").write_text("<html></html>")
    ended = wesemu("reference", "add", "page", tmp_path / "page.fa", "--data", data)
    assert ended.status == ExitStatus.USAGE
    assert "not FASTA" in ended.err


def test_files_go_into_buckets_and_out_again(wesemu, tmp_path: Path, data: Path) -> None:
    (tmp_path / "a.txt").write_text("hello")
    into = wesemu("bucket", "cp", tmp_path / "a.txt", "oss://genes/in/", "--data", data)
    assert into.status == 0, into.err
    assert (data / "buckets/genes/in/a.txt").read_text() == "hello"
    wesemu("bucket", "cp", "oss://genes/in/a.txt", "oss://other/b.txt", "--data", data)
    assert wesemu("bucket", "ls", "--data", data).out == "oss://genes\noss://other\n"
    assert wesemu("bucket", "ls", "oss://other", "--data", data).out.split() == [
        "5",
        "oss://other/b.txt",
    ]
    wesemu("bucket", "cp", "oss://other/b.txt", f"{tmp_path}/new/", "--data", data)
    assert (tmp_path / "new" / "b.txt").is_file()
    wesemu("bucket", "cp", "oss://other/b.txt", tmp_path, "--data", data)
    assert (tmp_path / "b.txt").read_text() == "hello"


def test_a_disk_that_is_full_is_named_and_gets_no_half_of_a_file(
    wesemu, tmp_path: Path, data: Path
) -> None:
    with small_disk(tmp_path / "disk", "64k") as disk:
        made = wesemu("fixture", disk / "f", "--length", 90000, "--contigs", 1, "--depth", 1)
        assert (made.status, made.err) == (
            ExitStatus.MACHINE,
            f"wesemu: the disk is full: {disk}/f\n",
        )
        assert [path.name for path in (disk / "f").iterdir()] == ["fixture.json"]
        source = data / "buckets" / "genes" / "large"
        source.parent.mkdir(parents=True)
        source.write_bytes(bytes(90000))
        copied = wesemu("bucket", "cp", "oss://genes/large", disk / "copy", "--data", data)
        assert (copied.status, copied.err) == (
            ExitStatus.MACHINE,
            f"wesemu: the disk is full: {disk}/copy\n",
        )
        assert not (disk / "copy").exists()


def test_a_copy_replaces_a_local_file_that_was_named_only(
    wesemu, tmp_path: Path, data: Path
) -> None:
    (source := tmp_path / "a.txt").write_text("hello")
    wesemu("bucket", "cp", source, "oss://genes/a.txt", "--data", data)
    (file := tmp_path / "folder" / "a.txt").parent.mkdir()
    file.write_text("mine ")  # as long as the object
    copy = ("bucket", "cp", "oss://genes/a.txt")
    ended = wesemu(*copy, file.parent, "--data", data)
    assert (ended.status, file.read_text()) == (ExitStatus.MACHINE, "mine ")
    assert f"{file} exists already" in ended.err
    for named in ((file.parent, "--overwrite"), (file,)):
        file.write_text("mine ")
        assert wesemu(*copy, *named, "--data", data).status == 0
        assert file.read_text() == "hello"


@pytest.mark.parametrize(
    "verb",
    [
        ["reference", "add", "tiny", "reads.fa"],
        ["bucket", "cp", "reads.fa", "oss://genes/a"],
        ["rebuild"],
        ["demo"],
        ["serve", "--port", "0"],
    ],
    ids=lambda verb: verb[0],
)
def test_no_verb_writes_into_a_directory_of_somebody_else(
    wesemu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "reads.fa").write_text(">a\nACGT\n")
    data = tmp_path / "project"
    (data / "runs" / "240101_NB501").mkdir(parents=True)
    before = sorted(data.rglob("*"))
    ended = wesemu(*verb, "--data", data)
    assert ended.status == ExitStatus.MACHINE
    assert "240101_NB501" in ended.err
    assert "--adopt-data" in ended.err
    assert sorted(data.rglob("*")) == before


def test_the_longest_names_are_copied(wesemu, tmp_path: Path, data: Path) -> None:
    (tmp_path / "a.txt").write_text("hello")
    name = "n" * 255
    assert (
        wesemu("bucket", "cp", tmp_path / "a.txt", f"oss://genes/{name}", "--data", data).status
        == 0
    )
    assert (data / "buckets/genes" / name).read_text() == "hello"


def test_buckets_are_listed_as_json(wesemu, data: Path) -> None:
    (data / "buckets/genes/in").mkdir(parents=True)
    (data / "buckets/genes/in/a.txt").write_text("hello")
    assert json.loads(wesemu("bucket", "ls", "--json", "--data", data).out) == [{"bucket": "genes"}]
    found = wesemu("bucket", "ls", "oss://genes/in", "--json", "--data", data)
    assert json.loads(found.out) == [{"location": "oss://genes/in/a.txt", "size": 5}]


def test_a_bucket_is_listed_whatever_links_are_in_it(wesemu, data: Path) -> None:
    (data / "buckets/genes").mkdir(parents=True)
    (data / "buckets/genes/any").symlink_to("/")
    ended = wesemu("bucket", "ls", "oss://genes", "--data", data)
    assert (ended.status, ended.out, ended.err) == (0, "", "")


@pytest.mark.parametrize(
    "target",
    [
        "oss://genes/../../x",
        "oss://../x",
        "oss://Genes/x",
        "oss://genes//x",
        "oss:///x",
        "oss://genes/.wesemu/x",
        "oss://genes/.Wesemu/records/",
        "oss://genes/.x.part",
    ],
)
def test_no_copy_leaves_its_bucket(wesemu, tmp_path: Path, data: Path, target: str) -> None:
    (tmp_path / "a.txt").write_text("hello")
    (data / "buckets/genes").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    ended = wesemu("bucket", "cp", tmp_path / "a.txt", target, "--data", data)
    assert ended.status == ExitStatus.USAGE
    assert sorted(tmp_path.rglob("*")) == before


def test_copying_what_is_not_there_is_refused(wesemu, tmp_path: Path, data: Path) -> None:
    ended = wesemu("bucket", "cp", tmp_path / "none", "oss://genes/x", "--data", data)
    assert ended.status == ExitStatus.REFUSED
    assert "none" in ended.err


def test_doctor_finds_everything_here(wesemu, data: Path) -> None:
    ended = wesemu("doctor", "--json", "--data", data)
    found = {finding["name"]: finding for finding in json.loads(ended.out)}
    assert {"python", "snakemake", "samtools", "bcftools", "cores", "disk"} <= set(found)
    assert {"bwa", "bwa-mem3"} & set(found)
    assert all(finding["ok"] for finding in found.values())
    assert ended.status == 0


@pytest.mark.parametrize(
    ("result", "state"),
    [
        (HealthCheck("a", "1.0", ""), "ok"),
        (HealthCheck("a", "none: there is no container runtime", "", absent=True), "-"),
        (HealthCheck("a", "none", "", ok=False), "MISSING"),
        (HealthCheck("a", "-", "", ok=False), "MISSING"),
        (HealthCheck("a", "1.0", "", check=True), "CHECK"),
    ],
)
def test_doctor_says_ok_only_of_what_is_there(result: HealthCheck, state: str) -> None:
    assert result.state == state


@pytest.mark.parametrize(
    ("name", "reason"),
    [("a file", "is a file; choose a directory"), ("foreign", "is not wesemu's: it has notes")],
)
def test_doctor_checks_the_data_directory(wesemu, tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "a file").touch()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign/notes").touch()
    ended = wesemu("doctor", "--json", "--data", tmp_path / name)
    found = {finding["name"]: finding for finding in json.loads(ended.out)}
    assert ended.status == ExitStatus.FAILED
    assert not found["data"]["ok"]
    assert reason in found["data"]["source"]


def test_doctor_checks_the_limit_of_open_files(wesemu, data: Path, monkeypatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (64, 100))
    ended = wesemu("doctor", "--json", "--data", data)
    found = {finding["name"]: finding for finding in json.loads(ended.out)}
    assert ended.status == ExitStatus.FAILED
    assert (found["open files"]["found"], found["open files"]["ok"]) == ("100", False)


def test_doctor_fails_where_a_tool_is_missing(wesemu, data: Path, monkeypatch) -> None:
    monkeypatch.setattr("wesemu.genomics.tools.wheel_version", lambda name: None)
    monkeypatch.setenv("PATH", "")
    ended = wesemu("doctor", "--data", data)
    assert ended.status == ExitStatus.FAILED
    assert "MISSING" in ended.out


def test_doctor_shows_the_tools_of_the_settings(wesemu, data: Path, tmp_path, monkeypatch) -> None:
    program = tmp_path / "minimap2"
    program.write_text("#!/bin/sh\necho 2.99-r1\n")
    program.chmod(0o755)
    monkeypatch.setenv("WESEMU_TOOLS__MINIMAP2", str(program))
    ended = wesemu("doctor", "--json", "--data", data)
    found = {finding["name"]: finding for finding in json.loads(ended.out)}
    assert (found["minimap2"]["found"], found["minimap2"]["source"]) == ("2.99-r1", str(program))
    program.unlink()
    ended = wesemu("doctor", "--data", data)
    assert ended.status == ExitStatus.FAILED
    assert "tools.minimap2" in ended.out.replace("\n", "")


def test_an_unknown_setting_is_reported(wesemu, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("wesemu.toml").write_text("prot = 80\n")
    ended = wesemu("doctor")
    assert ended.status == ExitStatus.USAGE
    assert f"{tmp_path}/wesemu.toml: prot: is not known" in ended.err


def test_an_unknown_variable_is_warned_about(wesemu, data: Path, monkeypatch) -> None:
    monkeypatch.setenv("WESEMU_PROT", "80")
    ended = wesemu("bucket", "ls", "--data", data)
    assert ended.status == 0
    assert "WESEMU_PROT is not a setting and is ignored; did you mean WESEMU_PORT?" in ended.err


def test_a_reference_gets_the_index_of_another_mapper(wesemu, tmp_path: Path, data: Path) -> None:
    fasta = tmp_path / "tiny.fa"
    fasta.write_text(">chr1\n" + "ACGTTGCATGCAAC" * 50 + "\n")
    assert wesemu("reference", "add", "tiny", fasta, "--data", data).status == 0
    ended = wesemu("reference", "index", "TINY", "--mapper", "bwa-mem3", "--data", data)
    assert ended.status == 0, ended.err
    [listed] = json.loads(wesemu("reference", "list", "--data", data, "--json").out)
    assert set(listed["indexes"]) == {*INDEXES, "bwa-mem3"}
    ended = wesemu("reference", "index", "nothing", "--data", data)
    assert (ended.status, "registered: tiny" in ended.err) == (ExitStatus.REFUSED, True)


def test_files_folders_and_buckets_are_removed(wesemu, tmp_path: Path, data: Path) -> None:
    (tmp_path / "x").write_text("x")
    for key in ("a/1", "a/2", "b"):
        wesemu("bucket", "cp", tmp_path / "x", f"oss://genes/{key}", "--data", data)
    assert wesemu("bucket", "rm", "oss://genes/b", "--data", data).status == 0
    ended = wesemu("bucket", "rm", "oss://genes/a", "--data", data)
    assert (ended.status, "--recursive" in ended.err) == (ExitStatus.USAGE, True)
    ended = wesemu("bucket", "rm", "-r", "oss://genes/a", "--data", data)
    assert (ended.status, "with 2 files" in ended.err) == (0, True)
    assert json.loads(wesemu("bucket", "ls", "oss://genes", "--data", data, "--json").out) == []
    assert wesemu("bucket", "rm", "-r", "oss://genes", "--data", data).status == 0
    assert json.loads(wesemu("bucket", "ls", "--data", data, "--json").out) == []
    for wrong in ("genes/b", "oss://", "oss://genes/../../runs"):
        assert wesemu("bucket", "rm", "-r", wrong, "--data", data).status != 0


def test_a_pipe_is_not_replaced_and_a_link_is_followed(wesemu, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("text")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("out")
    ended = wesemu("bucket", "cp", tmp_path / "in", tmp_path / "pipe")
    assert ended.status == ExitStatus.USAGE
    assert f"{tmp_path / 'pipe'} is a device, a pipe or a socket" in ended.err
    assert (tmp_path / "pipe").is_fifo()
    assert wesemu("bucket", "cp", tmp_path / "in", tmp_path / "link").status == 0
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "out").read_text() == "text"
    ended = wesemu("serve", "--port", 0, "--ready-file", tmp_path / "pipe")
    assert ended.status == ExitStatus.USAGE
    assert (tmp_path / "pipe").is_fifo()


def test_links_that_form_a_circle_are_named(wesemu, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    ended = wesemu("bucket", "cp", __file__, "oss://abc/x", "--data", tmp_path / "loop")
    assert ended.status == ExitStatus.MACHINE
    assert str(tmp_path / "loop") in ended.err
    assert ended.err.count("\n") == 1
