"""What a caller is told of a failure."""

from pathlib import Path

import pytest

from wesemu.engines.failures import hint, shorten
from wesemu.engines.snakemake.failures import task_failure


@pytest.mark.parametrize(
    ("code", "words", "told"),
    [
        (137, "", "memory"),
        (127, "/bin/bash: line 1: bwa: command not found", "the tool bwa was not found"),
        (127, "/bin/sh: 1: samtools: not found", "the tool samtools was not found"),
        (127, "", "a tool was not found"),
        (139, "", "segmentation fault"),
        (1, "sort: write failed: No space left on device", "the disk is full"),
    ],
)
def test_hints(code: int, words: str, told: str) -> None:
    assert told in (hint(code, words) or "")


def test_no_hint_where_nothing_is_known() -> None:
    assert hint(1, "wrong argument") is None
    assert hint(None, "") is None


def test_the_log_that_says_something_is_shown(tmp_path: Path) -> None:
    (tmp_path / "stderr").touch()
    (tmp_path / "tool.log").write_text("first\nlast words\n\n")
    failure = task_failure("map", "sample=s1", 2, "", tmp_path, ["stderr", "tool.log"])
    assert failure.message == "rule map (sample=s1) ended with exit status 2: last words"
    assert failure.stderr == "tool.log"


RUN_ERROR = """RuleException:
{error} in file "/data/work/Snakefile", line 5:
{text}
  File "/data/work/Snakefile", line 5, in __rule_a
Exiting because a job execution failed. Look above for error messages
WorkflowError:
At least one job did not complete successfully.
"""


@pytest.mark.parametrize(
    ("before", "error", "reason"),
    [
        ("", "ValueError", "ValueError in Snakefile, line 5: text"),
        ("progress\n", "ValueError", "ValueError in Snakefile, line 5: text"),
        ("no index\n", "CalledProcessError", "no index"),
        ("", "CalledProcessError", "CalledProcessError in Snakefile, line 5: text"),
    ],
)
def test_run_block_is_blamed_by_its_own_error(
    tmp_path: Path, before: str, error: str, reason: str
) -> None:
    (tmp_path / "stderr").write_text(before + RUN_ERROR.format(error=error, text="text"))
    failure = task_failure("a", "", 1, "", tmp_path, ["stderr"])
    assert failure.message == f"rule a ended with exit status 1: {reason}"


def test_long_and_binary_last_words_are_cut(tmp_path: Path) -> None:
    (tmp_path / "stderr").write_bytes(b"\xff\x00" + b"x" * 1_000_000)
    failure = task_failure("map", "", 2, "", tmp_path, ["stderr"])
    assert len(failure.message) < 400


def test_messages_are_free_of_this_machines_paths(tmp_path: Path) -> None:
    assert shorten(f"no {tmp_path}/work/a.bam\n  there", tmp_path) == "no work/a.bam there"
    assert shorten('in file "/opt/x/Snakefile", line 3', tmp_path) == 'in file "Snakefile", line 3'
