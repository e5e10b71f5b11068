"""The verbs of the command line against the whole server; the engine plays scripts."""

import asyncio
import json
import os
import zipfile

import pytest
from structlog.testing import capture_logs

from wesemu.cli.app import execute
from wesemu.cli.output import ExitStatus

READS = ("--bucket", "genes", "--fastq1", "fastq/a_1.fq.gz", "--fastq2", "fastq/a_2.fq.gz")
TINY = ("--reference", "reference/tiny")
MAPPING = ("run", "mapping", *READS, *TINY, "--output-bam", "out/a.bam")
WGS = ("run", "wgs", *READS, *TINY, "--output-vcf", "out/a.vcf.gz")


@pytest.fixture
def wesemu(client, capsys, monkeypatch):
    """Runs a command line in a thread beside the server: its status, stdout and stderr."""
    monkeypatch.setenv("WESEMU_SERVER", str(client.make_url("/")))
    monkeypatch.delenv("WESEMU_TOKEN", raising=False)

    def run(arguments: tuple[str, ...]) -> int:
        try:
            execute(arguments)
        except SystemExit as ended:
            return int(ended.code or 0)
        return 0

    async def act(*arguments: str) -> tuple[int, str, str]:
        status = await asyncio.to_thread(run, arguments)
        return status, *capsys.readouterr()

    with capture_logs():  # the server's own talk
        yield act


async def send(wesemu, *arguments: str) -> str:
    """The name of a job that has ended."""
    _, out, _ = await wesemu(*arguments, "--watch")
    return json.loads(out)["JobName"]


async def test_run_prints_the_job_name_and_watch_the_end(wesemu) -> None:
    status, out, err = await wesemu(*MAPPING, "--watch")
    assert status == 0
    assert out.startswith('{"JobName": "mapping-gpu-')
    assert "COMPLETE" in err
    assert "oss://genes/out/a.bam" in err
    assert "60 min, 0.0003 CNY" in err


async def test_run_does_not_wait_without_the_flag(wesemu) -> None:
    status, out, err = await wesemu(*WGS)
    assert (status, err) == (0, "")
    assert json.loads(out)["JobName"].startswith("wgs-gpu-")


async def test_every_flag_arrives(wesemu) -> None:
    flags = ("--markdup", "false", "--service", "p", "--region", "cn-x", "--quality-offset", "33")
    name = await send(wesemu, *MAPPING, *flags, "--reference-group", r"@RG\tID:x\tSM:y")
    _, out, _ = await wesemu("get", name, "--json")
    echoed = json.loads(json.loads(out)["ags"]["user_input_data"])
    assert echoed == {
        "mapping_oss_region": "cn-x",
        "mapping_fastq_first_name": "fastq/a_1.fq.gz",
        "mapping_fastq_second_name": "fastq/a_2.fq.gz",
        "mapping_bucket_name": "genes",
        "mapping_bam_file_name": "out/a.bam",
        "mapping_reference_file": "reference/tiny",
        "mapping_reference_group": r"@RG\tID:x\tSM:y",
        "mapping_mark_dup": "false",
        "mapping_service": "p",
        "wesemu_quality_offset": "33",
    }


async def test_wgs_names_all_its_outputs(wesemu) -> None:
    name = await send(wesemu, *WGS, "--output-bam", "out/b.bam", "--output-gvcf", "out/c.g.vcf.gz")
    _, out, _ = await wesemu("get", name, "--json")
    echoed = json.loads(json.loads(out)["ags"]["user_input_data"])
    assert [echoed[f"wgs_{kind}_file_name"] for kind in ("vcf", "gvcf", "bam")] == [
        "out/a.vcf.gz",
        "out/c.g.vcf.gz",
        "out/b.bam",
    ]


async def test_a_refusal_is_one_line(wesemu) -> None:
    status, out, err = await wesemu(*MAPPING, "--bucket", "nowhere")
    assert (status, out) == (ExitStatus.REFUSED, "")
    assert err.count("\n") == 1
    assert "nowhere" in err


async def test_a_reference_that_was_not_given_is_named_as_the_default(wesemu) -> None:
    status, _, err = await wesemu("run", "mapping", *READS, "--output-bam", "out/a.bam")
    assert status == ExitStatus.REFUSED
    assert "--reference (not given, so hg19): there is no reference" in err


async def test_list_shows_the_newest_first(wesemu) -> None:
    names = [await send(wesemu, *MAPPING), await send(wesemu, *WGS)]
    _, out, _ = await wesemu("list")
    assert [line.split()[1] for line in out.splitlines() if "gpu" in line] == names[::-1]
    _, out, _ = await wesemu("list", "--limit", "1", "--json")
    [only] = json.loads(out)
    assert (only["name"], only["state"]) == (names[1], "COMPLETE")


async def test_an_empty_list_says_so_on_stderr(wesemu) -> None:
    status, out, err = await wesemu("list")
    assert (status, out) == (0, "")
    assert "wesemu run" in err


async def test_get_takes_the_beginning_of_a_name(wesemu) -> None:
    name = await send(wesemu, *MAPPING)
    _, out, _ = await wesemu("get", "mapp")
    assert f"| {name} |" in out
    assert "| 4000 " in out
    assert (await wesemu("get", name[-3:]))[0] == ExitStatus.REFUSED
    _, out, _ = await wesemu("get", name, "--show")
    assert "wesemu.sla.minutes" in out
    assert "output  bam " in out
    assert "task    align" in out


async def test_logs_and_a_missing_run(wesemu) -> None:
    name = await send(wesemu, *MAPPING)
    assert (await wesemu("logs", name))[0] == 0
    status, out, _ = await wesemu("logs", name, "--json")
    assert [task["name"] for task in json.loads(out)["tasks"]] == ["align"]
    status, _, err = await wesemu("logs", "nobody")
    assert status == ExitStatus.REFUSED
    assert "wesemu list" in err


async def test_crate_writes_a_zip(wesemu, tmp_path, monkeypatch) -> None:
    pytest.importorskip("rocrate", reason="ro-crate-py is not installed")
    monkeypatch.chdir(tmp_path)
    name = await send(wesemu, *MAPPING)
    status, out, _ = await wesemu("crate", name)
    assert (status, out) == (0, f"{name}.crate.zip\n")
    assert "ro-crate-metadata.json" in zipfile.ZipFile(f"{name}.crate.zip").namelist()
    (tmp_path / "crates").mkdir()
    status, out, _ = await wesemu("crate", name, "-o", "crates")
    assert (status, out) == (0, f"crates/{name}.crate.zip\n")
    status, out, _ = await wesemu("crate", name, "-o", "new/")
    assert (status, out) == (0, f"new/{name}.crate.zip\n")
    status, out, _ = await wesemu("crate", name, "-o", "all.zip", "--outputs", "none")
    assert (status, out) == (0, "all.zip\n")
    assert not any(file.startswith("outputs/") for file in zipfile.ZipFile("all.zip").namelist())
    (file := tmp_path / "crates" / f"{name}.crate.zip").write_text("my own")
    assert (await wesemu("crate", name, "-o", "crates"))[0] == ExitStatus.MACHINE
    assert file.read_text() == "my own"
    for named in (("-o", "crates", "--overwrite"), ("-o", str(file))):
        file.write_text("my own")
        assert (await wesemu("crate", name, *named))[0] == 0
        assert zipfile.is_zipfile(file)


async def test_a_file_that_cannot_be_read_is_named_not_the_connection(wesemu) -> None:
    status, _, err = await wesemu("bucket", "put", "/proc/self/mem", "oss://genes/memory")
    assert (status, err) == (
        ExitStatus.MACHINE,
        "wesemu: /proc/self/mem: the disk reports an error\n",
    )


async def test_a_download_does_not_replace_a_pipe(wesemu, tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe")
    status, _, err = await wesemu("snapshot", "save", str(tmp_path / "pipe"))
    assert status == ExitStatus.USAGE
    assert "is a device, a pipe or a socket; name a file" in err
    assert (tmp_path / "pipe").is_fifo()


async def test_cancel_and_remove(wesemu, engine, client) -> None:
    body = {
        "workflow_url": "mapping",
        "workflow_type": "SMK",
        "workflow_type_version": "9",
        "workflow_params": {
            "reads": [
                {"first": "oss://genes/fastq/a_1.fq.gz", "second": "oss://genes/fastq/a_2.fq.gz"}
            ],
            "reference": "oss://genes/reference/tiny",
            "sample": "wait-for-ever",
        },
    }
    answer = await client.post("/ga4gh/wes/v1/runs", json=body)
    run_id = (await answer.json())["run_id"]
    status, _, err = await wesemu("remove", run_id[:8])
    assert status == ExitStatus.REFUSED
    status, _, err = await wesemu("cancel", run_id)
    assert status == 0
    assert "being canceled" in err
    await wesemu("logs", run_id, "--follow")
    status, _, err = await wesemu("cancel", run_id)
    assert (status, "CANCELED" in err) == (0, True)
    status, _, err = await wesemu("remove", run_id)
    assert (status, "is removed" in err) == (0, True)
    assert (await wesemu("get", run_id))[0] == ExitStatus.REFUSED
