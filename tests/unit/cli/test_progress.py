"""Progress without a terminal: one line for each new state and note."""

import pytest

from wesemu.cli.output import ProgressLines
from wesemu.client.wes import _detail


def test_a_line_for_every_new_state_and_note(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressLines() as display:
        display.show("job", "RUNNING", 0, 0)
        display.show("job", "RUNNING", 1, 3)
        display.show("job", "RUNNING", 3, 3, note="until 2020-01-15T09:50:25Z")
        display.show("job", "COMPLETE", 3, 3)
    assert capsys.readouterr().err.splitlines() == [
        "job                  RUNNING",
        "job                  RUNNING  3 of 3 steps  until 2020-01-15T09:50:25Z",
        "job                  COMPLETE  3 of 3 steps",
    ]


def test_a_task_that_was_tried_again_counts_once() -> None:
    ids = ["1-1", "1-2", "2-1", "11-1", "11-10", "of another server"]
    run = _detail({"state": "RUNNING", "task_logs": [{"id": each} for each in ids]})
    assert run.tasks_total == 4
