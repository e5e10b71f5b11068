"""`wesemu run wgs --samples`: one run for each sample of a sheet, or none."""

import json
from pathlib import Path

import pytest
from api.test_verbs import wesemu

from wesemu.cli.output import CommandRefused, ExitStatus
from wesemu.cli.samples import SheetLane, plan_runs, read_sheet

__all__ = ["wesemu"]

FLAGS = ("run", "wgs", "--bucket", "genes", "--reference", "reference/tiny", "--samples")
OUTPUT = ("--output-vcf", "out/{sample}.vcf.gz")
SHEET = """\
sample,lane,fastq_1,fastq_2
a,L1,fastq/a_1.fq.gz,fastq/a_2.fq.gz
b,,oss://genes/lanes/b_1.fq.gz,lanes/b_2.fq.gz
a,L2,lanes/a_1.fq.gz,lanes/a_2.fq.gz
"""


def sheet(folder: Path, text: str) -> Path:
    file = folder / "cohort.csv"
    file.write_text(text)
    return file


@pytest.fixture
def lanes(settings) -> None:
    folder = settings.data / "buckets" / "genes" / "lanes"
    folder.mkdir()
    for name in ("a_1", "a_2", "b_1", "b_2"):
        (folder / f"{name}.fq.gz").write_bytes(name.encode())


async def test_each_sample_is_one_run_of_all_its_lanes(wesemu, lanes, tmp_path) -> None:
    file = sheet(tmp_path, SHEET)
    status, out, err = await wesemu(*FLAGS, str(file), *OUTPUT, "--ploidy", "1", "--watch")
    assert status == 0, err
    sent = [json.loads(line) for line in out.splitlines()]
    assert [run["sample"] for run in sent] == ["a", "b"]
    _, out, _ = await wesemu("get", sent[0]["run_id"], "--json")
    request = json.loads(out)["wes"]["request"]
    assert request["workflow_params"] == {
        "reference": "oss://genes/reference/tiny",
        "service": "s",
        "ploidy": "1",
        "sample": "a",
        "reads": [
            {"first": "oss://genes/fastq/a_1.fq.gz", "second": "oss://genes/fastq/a_2.fq.gz"},
            {"first": "oss://genes/lanes/a_1.fq.gz", "second": "oss://genes/lanes/a_2.fq.gz"},
        ],
        "vcf": "oss://genes/out/a.vcf.gz",
    }
    tags = request["tags"]
    assert (tags["group"], tags["sample"]) == ("cohort", "a")
    _, out, _ = await wesemu("outputs", sent[1]["run_id"], "--json")
    assert "oss://genes/out/b.vcf.gz" in out


async def test_one_missing_file_sends_nothing(wesemu, lanes, tmp_path) -> None:
    file = sheet(tmp_path, SHEET.replace("lanes/b_2", "lanes/missing"))
    status, out, err = await wesemu(*FLAGS, str(file), *OUTPUT)
    assert (status, out) == (ExitStatus.REFUSED, "")
    assert "nothing was sent; the server refuses: b: " in err
    assert "missing" in err
    assert (await wesemu("list", "--json"))[1].strip() == "[]"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--output-vcf", "out/one.vcf.gz"), "--output-vcf: 'out/one.vcf.gz' is the same"),
        ((*OUTPUT, "--fastq1", "x"), "--samples excludes"),
        ((), "--output-vcf"),
    ],
)
async def test_flags_that_do_not_fit_are_refused(
    wesemu, tmp_path, flags: tuple[str, ...], said: str
) -> None:
    status, _, err = await wesemu(*FLAGS, str(sheet(tmp_path, SHEET)), *flags)
    assert (status, err.count("\n")) == (ExitStatus.USAGE, 1)
    assert said in err


async def test_without_a_sheet_the_reads_are_needed(wesemu) -> None:
    flags = ("run", "wgs", "--bucket", "genes", "--output-vcf", "x.vcf")
    for flag in ("--fastq1", "--fastq2"):
        status, _, err = await wesemu(*flags)
        assert (status, f"Missing option '{flag}'" in err) == (ExitStatus.USAGE, True)
        flags = (*flags, flag, "x")


def test_a_sheet_is_read_by_its_columns(tmp_path: Path) -> None:
    text = "\ufefffastq_2, patient,sample,fastq_1\n y , p1,s1,x\n\n,,,\n"
    assert read_sheet(sheet(tmp_path, text)) == {"s1": [SheetLane("x", "y")]}


def test_a_ploidy_file_is_read_for_the_sex_of_each_sample(tmp_path: Path) -> None:
    text = "sample,sex,fastq_1,fastq_2\na,XX,a1,a2\nb,XY,b1,b2\nb,XY,b3,b4\nc,NA,c1,c2\n"
    samples = read_sheet(sheet(tmp_path, text))

    def sexes(ploidy: str, sex: str | None = None) -> list[object]:
        runs = plan_runs(samples, "genes", {"ploidy": ploidy, "sex": sex}, {})
        return [run.params.get("sex") for run in runs]

    assert sexes("oss://genes/ploidy.txt") == ["XX", "XY", None]
    assert sexes("2") == [None, None, None]
    with pytest.raises(CommandRefused, match="the sexes XX and XY; leave --sex out"):
        sexes("oss://genes/ploidy.txt", "XY")
    text = "sample,sex,fastq_1,fastq_2\na,F,a1,a2\n"  # the file may have lines for M only
    samples = read_sheet(sheet(tmp_path, text))
    assert sexes("oss://genes/ploidy.txt") == ["F"]
    assert sexes("oss://genes/ploidy.txt", "female") == ["female"]
    text = "sample,sex,fastq_1,fastq_2\na,XX,a1,a2\na,XY,a3,a4\n"
    with pytest.raises(CommandRefused, match="line 3: sample a has another sex"):
        read_sheet(sheet(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "errors"),
    [
        ("", ["the column sample is missing"]),
        ("sample,fastq_1,fastq_2\n", ["it has no samples"]),
        (
            "sample,fastq_1,reads\n",
            ["the column fastq_2 is missing", "the column 'reads' is unknown"],
        ),
        (
            "sample,lane,fastq_1,fastq_2\na,1,x,\n-b,1,y,z\na,1,x,w\na,2,v,v,more\n",
            [
                "line 2: fastq_2 is empty",
                "line 3: '-b' is not a sample name",
                "line 4: x is in line 2 already",
                "line 4: sample a has lane 1 in line 2",
                "line 5: it has more cells than the header",
                "line 5: v is in line 5 already",
            ],
        ),
    ],
)
def test_all_errors_of_a_sheet_are_listed(tmp_path: Path, text: str, errors: list[str]) -> None:
    with pytest.raises(CommandRefused) as refused:
        read_sheet(sheet(tmp_path, text))
    assert refused.value.status is ExitStatus.USAGE
    for error in errors:
        assert error in refused.value.message
