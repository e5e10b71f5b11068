"""The examples that CI cannot run name files, settings and verbs that exist."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from wesemu.settings import unknown_variables

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "docs" / "examples"


def load(path: Path) -> dict[Any, Any]:
    content: dict[Any, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return content


def test_every_example_is_in_the_list() -> None:
    page = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    listed = {path.relative_to(EXAMPLES) for path in EXAMPLES.iterdir() if path.name[0] not in "._"}
    assert [
        str(path) for path in listed if f"]({path}" not in page and path.name != "README.md"
    ] == []


@pytest.mark.parametrize("service", ["wesemu", "client"])
def test_compose_builds_the_image_with_settings_that_exist(service: str, monkeypatch) -> None:
    described = load(EXAMPLES / "compose.yaml")["services"][service]
    assert (EXAMPLES / described["build"] / "Dockerfile").is_file()
    for name, value in described["environment"].items():
        monkeypatch.setenv(name, value)
    assert unknown_variables() == []


def test_compose_waits_for_a_healthy_server() -> None:
    services = load(EXAMPLES / "compose.yaml")["services"]
    assert services["wesemu"]["healthcheck"]["test"] == ["CMD", "wesemu", "ready"]
    assert services["client"]["depends_on"] == {"wesemu": {"condition": "service_healthy"}}


def test_the_action_is_composite_and_its_scripts_parse() -> None:
    action = load(ROOT / "action.yml")
    assert action["runs"]["using"] == "composite"
    scripts = [step["run"] for step in action["runs"]["steps"] if "run" in step]
    assert any("wesemu serve" in script for script in scripts)
    for script in scripts:
        done = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True)
        assert done.returncode == 0, done.stderr


def test_the_workflow_of_github_gives_the_action_its_inputs() -> None:
    workflow = load(EXAMPLES / "github-actions.yml")
    steps = workflow["jobs"]["test"]["steps"]
    [used] = [step for step in steps if "wesemu@" in step.get("uses", "")]
    assert used["with"].keys() <= load(ROOT / "action.yml")["inputs"].keys()
