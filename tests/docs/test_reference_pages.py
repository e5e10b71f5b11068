"""docs/errors.md, docs/events.md and docs/methods.md agree with the program."""

import re
from pathlib import Path

import pytest

from wesemu.cli.output import ExitStatus
from wesemu.engines.failures import _HINTS
from wesemu.genomics.mappers import BWA, MINIMAP2
from wesemu.runs.model import TRANSITIONS, RunState

ROOT = Path(__file__).resolve().parents[2]
ERRORS, EVENTS, METHODS = (
    (ROOT / "docs" / name).read_text(encoding="utf-8")
    for name in ("errors.md", "events.md", "methods.md")
)


def first_cells(page: str, title: str) -> set[str]:
    """Return the words of the first column of the table in a section."""
    section = page.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| ([^|]+) \|", section, re.MULTILINE)
    assert cells, f"no table in {title}"
    return {word for cell in cells for word in re.split(r",\s*", cell)}


@pytest.mark.parametrize("status", [each for each in ExitStatus if each.value])
def test_every_exit_status_has_its_remedy(status: ExitStatus) -> None:
    assert str(status.value) in first_cells(ERRORS, "Exit statuses of the command line")


@pytest.mark.parametrize("status", _HINTS)
def test_every_hint_by_exit_status_is_on_the_page(status: int) -> None:
    assert str(status) in first_cells(ERRORS, "Exit statuses of tasks")


def test_the_states_follow_each_other_as_in_the_program() -> None:
    rows = re.findall(r"^\| ([A-Z_]+) \| ([A-Z_, ]*) ?\|", EVENTS, re.MULTILINE)
    shown = {(before, state) for state, cell in rows for before in re.findall(r"[A-Z_]+", cell)}
    assert {state for state, _ in rows} == {state.value for state in RunState}
    assert shown == {
        (before.value, after.value) for before, later in TRANSITIONS.items() for after in later
    }


@pytest.mark.parametrize(
    ("message", "source"),
    [
        ("uses the data directory", "runs/data_directory.py"),
        ("is not wesemu's", "runs/data_directory.py"),
        ("and no credentials are set", "cli/serve.py"),
        ("was written by a newer wesemu", "runs/database.py"),
        ("the port is in use", "cli/serve.py"),
    ],
)
def test_messages_of_the_start_are_those_of_the_program(message: str, source: str) -> None:
    assert message in ERRORS
    assert message in (ROOT / "wesemu" / source).read_text(encoding="utf-8")


def test_methods_name_the_options_of_the_pipelines() -> None:
    assert f"`{' '.join(BWA)}`" in METHODS
    assert f"`{' '.join(MINIMAP2[2:])}`" in METHODS
    calling = ROOT / "pipelines" / "wgs" / "workflow" / "rules"
    text = "\n".join(path.read_text(encoding="utf-8") for path in calling.glob("*.smk"))
    [pileup] = re.findall(r'^PILEUP = "([^"]+)"', text, re.MULTILINE)
    assert f"`bcftools {pileup.replace(' -Ou', '')}`" in METHODS
