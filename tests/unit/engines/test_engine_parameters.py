"""Engine parameters: which are allowed, and which are refused."""

from pathlib import Path

import pytest

from wesemu.engine_parameters import (
    PARAMETERS,
    SnakemakeOptions,
    allowed_names,
    canonical,
    check_parameters,
)
from wesemu.engines.library_engine import CwlEngine, WdlEngine
from wesemu.engines.snakemake import SnakemakeEngine
from wesemu.errors import InvalidRequest

ENGINES = (SnakemakeEngine(), CwlEngine("3"), WdlEngine("1"))


def test_nothing_asked_for_is_nothing_changed() -> None:
    assert check_parameters({}) == SnakemakeOptions()


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
    assert options.default_resources == ("mem_mb=2000", "runtime=5")


@pytest.mark.parametrize(
    "name",
    [
        "--snakefile",
        "--directory",
        "--configfile",
        "--wrapper-prefix",
        "--executor",
        "--jobscript",
        "--conda-prefix",
        "--apptainer-args",
        "--report",
        "--unlock",
        "--delete-all-output",
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
    assert len(caught.value.message) < 600
    assert all(allowed in caught.value.message for allowed in allowed_names("snakemake"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("targets", "--snakefile=/etc/passwd"),
        ("targets", "/etc/passwd"),
        ("targets", "../../secret"),
        ("targets", "~/secret"),
        ("targets", "a\0b"),
        ("targets", " , "),
        ("profile", "/etc/snakemake"),
        ("workflow_profile", "../other"),
        ("forcerun", '["a", 1]'),
        ("targets", "an open 'quote"),
        ("rerun_triggers", "weather"),
        ("set_threads", "4"),
        ("set_resources", "mem_mb=4"),
        ("config", "no value"),
        ("retries", "-1"),
        ("retries", "101"),
        ("retries", "1e3"),
        ("retries", "٣٣٣٣"),
        ("forceall", "perhaps"),
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


@pytest.mark.parametrize(
    ("name", "value", "meant"),
    [
        ("targets", '["a b.txt", "c,d.txt"]', ("a b.txt", "c,d.txt")),
        ("targets", "'a b.txt' c", ("a b.txt", "c")),
        ("config", "sample='s 1' list=[1,2]", ("sample=s 1", "list=[1,2]")),
        (
            "default_resources",
            "mem_mb='max(2*input.size, 1000)' x=1",
            ("mem_mb=max(2*input.size, 1000)", "x=1"),
        ),
        (
            "default_resources",
            "mem_mb=max(2*input.size, 1000)",
            ("mem_mb=max(2*input.size, 1000)",),
        ),
        ("set_threads", "a='max(input.size, 5)' b=2", ("a=max(input.size, 5)", "b=2")),
        (
            "set_resources",
            "a:slurm_extra=\"'--nice=150 --x'\"",
            ("a:slurm_extra='--nice=150 --x'",),
        ),
        ("rerun_triggers", "mtime, code", ("mtime", "code")),
        ("allowed_rules", "a b", ("a", "b")),
        ("profile", "one,two/config.yaml", ("one", "two/config.yaml")),
    ],
)
def test_lists_as_a_command_line_takes_them(name: str, value: str, meant: tuple[str, ...]) -> None:
    assert getattr(check_parameters({name: value}), name) == meant


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
def test_all_that_service_info_names_may_be_sent_back(engine: SnakemakeEngine) -> None:
    for form in ("{}", "--{}"):
        echoed = {form.format(each.name): each.default for each in PARAMETERS}
        engine.check_parameters(echoed)
        engine.check_parameters({name.replace("_", "-"): value for name, value in echoed.items()})


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
def test_every_engine_reads_what_the_table_says(engine: SnakemakeEngine) -> None:
    samples = {"int": "1", "boolean": "true", "string": "x", "list": "x"}
    values = {"config": "a=1", "default_resources": "mem_mb=1", "set_resources": "a:mem_mb=1"}
    values |= {"set_threads": "a=1", "set_scatter": "a=1", "rerun_triggers": "mtime"}
    for each in PARAMETERS:
        sent = {each.name: values.get(each.name, samples[each.kind])}
        if not each.engines or engine.name in each.engines:
            engine.check_parameters(sent)
        else:
            with pytest.raises(InvalidRequest, match=f"for {engine.name} these are allowed: "):
                engine.check_parameters(sent)


def test_short_options_are_those_of_the_command_line() -> None:
    assert [canonical(name) for name in ("-c", "-j", "-k", "-F", "--jobs")] == [
        "cores",
        "cores",
        "keep_going",
        "forceall",
        "cores",
    ]


def test_the_table_is_documented() -> None:
    page = (Path(__file__).parents[3] / "docs/engines.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    for each in PARAMETERS:
        engines = ", ".join(each.engines) or "all"
        default = f"`{each.default}`" if each.default else ""
        assert f"| `{each.name}` | {each.kind} | {default} | {engines} | {each.about} |" in rows
