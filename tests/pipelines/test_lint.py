"""The workflows are clean by Snakemake's own measures."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PIPELINES = Path(__file__).resolve().parents[2] / "pipelines"
NAMES = ["mapping", "wgs"]


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


@pytest.mark.parametrize("name", NAMES)
def test_every_key_is_documented(name):
    keys = set()
    for pipeline in {"mapping", name}:
        for schema in (PIPELINES / pipeline / "workflow" / "schemas").glob("*.yaml"):
            keys |= {
                line.strip().removesuffix(":")
                for line in schema.read_text().splitlines()
                if line.startswith("  ") and line[2] not in " -" and line.endswith(":")
            }
    text = (PIPELINES / name / "config" / "README.md").read_text()
    assert {"sample", "reads", "reference", "tools"} <= keys
    assert [key for key in sorted(keys) if f"`{key}`" not in text and name == "wgs"] == []
