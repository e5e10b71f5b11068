"""The engine parameters that may be set, and the many that may not."""

import pytest

from wesemu.engines.snakemake import Options, check_parameters
from wesemu.errors import InvalidRequest


def test_nothing_asked_for_is_nothing_changed() -> None:
    assert check_parameters({}) == Options()


@pytest.mark.parametrize("name", ["keep_going", "keep-going", "--keep-going", "Keep-Going"])
def test_spellings_of_a_flag(name: str) -> None:
    assert check_parameters({name: "true"}).keep_going


@pytest.mark.parametrize(("value", "meant"), [("", True), ("TRUE", True), ("no", False)])
def test_values_of_a_flag(value: str, meant: bool) -> None:
    assert check_parameters({"forceall": value}).forceall is meant


def test_lists_numbers_and_resources() -> None:
    options = check_parameters(
        {
            "targets": "a.bam, results/b.vcf",
            "until": "map sort",
            "retries": "3",
            "default_resources": "mem_mb=2000,runtime=5",
        }
    )
    assert options.targets == ("a.bam", "results/b.vcf")
    assert options.until == ("map", "sort")
    assert options.retries == 3
    assert options.default_resources == {"mem_mb": 2000, "runtime": 5}


@pytest.mark.parametrize(
    "name",
    [
        "--snakefile",
        "--directory",
        "--configfile",
        "--profile",
        "--wrapper-prefix",
        "--executor",
        "--jobscript",
        "--conda-prefix",
        "--apptainer-args",
        "--report",
        "--unlock",
        "--delete-all-output",
        "--cores",
        "--config",
        "--logger",
        "--use-conda",
        "",
        "x" * 10_000,
    ],
)
def test_dangerous_parameters_are_refused_by_name(name: str) -> None:
    with pytest.raises(InvalidRequest, match="not allowed") as caught:
        check_parameters({name: "x"})
    assert caught.value.field == name
    assert len(caught.value.message) < 400


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("targets", "--snakefile=/etc/passwd"),
        ("targets", "/etc/passwd"),
        ("targets", "../../secret"),
        ("targets", "~/secret"),
        ("targets", "a\0b"),
        ("targets", " , "),
        ("until", ""),
        ("retries", "-1"),
        ("retries", "101"),
        ("retries", "1e3"),
        ("retries", "٣٣٣٣"),
        ("forceall", "perhaps"),
        ("default_resources", "mem_mb=__import__('os').getpid()"),
        ("default_resources", "mem_mb"),
    ],
)
def test_wrong_values_are_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_parameters({name: value})
    assert caught.value.field == name


def test_a_parameter_in_two_spellings_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="twice"):
        check_parameters({"retries": "1", "--retries": "2"})
