"""The workflows pass `snakemake --lint` and snakefmt."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from wesemu.workflows.params import PARAMS, LaneParams

PIPELINES = Path(__file__).resolve().parents[2] / "pipelines"
NAMES = ["mapping", "wgs"]
PAGE = PIPELINES.parent / "docs" / "pipelines.md"


def run(*words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(PIPELINES.parent)}
    return subprocess.run(
        [sys.executable, "-m", *words], capture_output=True, text=True, env=environment, check=False
    )


@pytest.mark.parametrize("name", NAMES)
def test_snakemake_has_nothing_to_say(name, tmp_path, config):
    (tmp_path / "config.yaml").write_text(repr(config))
    done = run(
        *("snakemake", "--lint", "-s", str(PIPELINES / name / "workflow" / "Snakefile")),
        *("--directory", str(tmp_path), "--configfile", str(tmp_path / "config.yaml")),
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_the_format_is_snakefmts(name):
    done = run("snakefmt", "--check", str(PIPELINES / name / "workflow"))
    assert done.returncode == 0, done.stderr


def properties(schema: Path) -> set[str]:
    return set(yaml.safe_load(schema.read_text()).get("properties", {}))


def keys_of(name: str) -> set[str]:
    """The configuration keys of a workflow."""
    mapping = PIPELINES / "mapping" / "workflow" / "schemas" / "mapping.schema.yaml"
    own = PIPELINES / name / "workflow" / "schemas" / "config.schema.yaml"
    return properties(mapping) | properties(own)


@pytest.mark.parametrize("name", NAMES)
def test_every_key_is_documented(name):
    readme = (PIPELINES / name / "config" / "README.md").read_text()
    keys = keys_of(name)
    assert {"sample", "reads", "reference", "tools"} <= keys
    assert [key for key in sorted(keys) if f"| `{key}` |" not in readme] == []
    assert set(re.findall(r"^\| `(\w+)` \|", readme, re.MULTILINE)) == keys
    assert [key for key in sorted(keys) if f"`{key}`" not in PAGE.read_text()] == []


def test_every_part_of_the_summary_is_documented():
    schema = PIPELINES / "mapping" / "workflow" / "schemas" / "summary.schema.yaml"
    text = PAGE.read_text()
    assert [part for part in sorted(properties(schema)) if f"`{part}`" not in text] == []


def test_every_parameter_of_the_server_is_documented():
    text = PAGE.read_text()
    names = {name for params in PARAMS.values() for name in params.model_fields}
    names |= set(LaneParams.model_fields)
    assert [name for name in sorted(names) if f"`{name}`" not in text] == []


@pytest.mark.parametrize("name", NAMES)
def test_the_workflows_own_test_runs(name, tmp_path):
    """As its README says, in a folder of its own so that nothing is written here."""
    folder = PIPELINES / name / ".test"
    config = yaml.safe_load((folder / "config" / "config.yaml").read_text())
    for lane in config["reads"]:
        lane |= {mate: str(folder / lane[mate]) for mate in ("first", "second")}
    config["reference"] = str(folder / config["reference"])
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    done = run(
        *("snakemake", "-s", str(PIPELINES / name / "workflow" / "Snakefile"), "-c", "2"),
        *("--directory", str(tmp_path), "--configfile", str(tmp_path / "config.yaml")),
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "results" / "summary.json").exists()
