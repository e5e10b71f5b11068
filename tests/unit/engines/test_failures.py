"""Failures of tasks and workflows: messages and hints."""

from pathlib import Path

import pytest

from wesemu.engines.failures import hint, shorten, snakemake_reason, task_failure, workflow_hint
from wesemu.util.text import failure_reason


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


METADATA = (
    "Error recording metadata for finished job ({}). "
    "Please ensure write permissions for the directory /d/runs/1/work/.snakemake"
)
TRACEBACK = """Traceback (most recent call last):

  File "/lib/api.py", line 687, in execute_workflow
    workflow.execute(
        ^^^^^^^^^

  File "/lib/sourcecache.py", line 846, in _cache
    self._do_cache(source_file)

FileNotFoundError: [Errno 2] No such file or directory: 'envs/a.yaml'
"""


@pytest.mark.parametrize(
    ("error", "is_kept"),
    [
        ("[Errno 2] No such file or directory: 'a'", False),
        ("[Errno 28] No space left on device", False),
        ("[Errno 13] Permission denied: 'a'", True),
        ("[Errno 30] Read-only file system: 'a'", True),
    ],
)
def test_advice_about_permissions_is_for_permissions_only(error: str, is_kept: bool) -> None:
    reason = snakemake_reason(METADATA.format(error))
    assert reason.startswith(f"Error recording metadata for finished job ({error})")
    assert ("write permissions" in reason) == is_kept


def test_a_syntax_error_that_snakemake_cannot_print_is_named() -> None:
    error = (
        'Traceback (most recent call last):\n\n  File "/lib/parser.py", line 181, in error\n'
        '    raise SyntaxError(msg)\n\n  File "/d/work/Snakefile", line 2\n\n'
        f"SyntaxError: Unexpected keyword utput\n\n\nDuring handling, another:\n\n{TRACEBACK}"
    )
    assert snakemake_reason(error) == "SyntaxError in Snakefile, line 2: Unexpected keyword utput"


def test_a_traceback_of_snakemake_is_its_last_line() -> None:
    reason = "FileNotFoundError: [Errno 2] No such file or directory: 'envs/a.yaml'\n"
    assert snakemake_reason(TRACEBACK) == reason
    assert snakemake_reason(f"{TRACEBACK}\nDuring handling, another:\n\n{TRACEBACK}") == reason
    assert (
        snakemake_reason("MissingRuleException:\n  No rule") == "MissingRuleException:\n  No rule"
    )


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        ("No such file or directory: 'work/envs/a.yaml'", "attach envs/a.yaml, or correct"),
        ("No such file or directory: 'a.tsv'", "attach a.tsv, or correct"),
        ("No such file or directory: 'bwa'", None),  # a program
        ("Error exporting conda environment -n x: line 1: conda: command not found", "no conda"),
        ("Error exporting conda environment -n x: EnvironmentLocationNotFound: x", None),
        ("Error running conda info. Command returned non-zero exit status 127.", "no conda"),
    ],
)
def test_hints_about_workflows(error: str, advice: str | None) -> None:
    given = workflow_hint(error)
    assert given is None if advice is None else advice in (given or "")


def test_the_log_that_says_something_is_shown(tmp_path: Path) -> None:
    (tmp_path / "stderr").touch()
    (tmp_path / "tool.log").write_text("first\nlast words\n\n")
    failure = task_failure("map", "sample=s1", 2, "", tmp_path, ["stderr", "tool.log"])
    assert failure.message == "rule map (sample=s1) ended with exit status 2: last words"
    assert failure.stderr == "tool.log"


FAIDX = """[E::fai_build_core] Different line length in sequence 'c1'
[E::fai_load3_core] Failed to load index
[W::hts_close] closing
"""
BWA = """[M::bwa_idx_load_from_disk] read 0 ALT contigs
[E::bwa_idx_load_from_disk] fail to locate the index files
[main] CMD: bwa mem
[main] Real time: 0.1 sec; CPU: 0.1 sec
"""
CALL = """[W::bcf_hdr_check_sanity] MQ should be declared as Type=Float
Failed to read from calls.bcf: not compressed
[W::vcf_parse_filter] FILTER 'x' is not defined in the header
"""
ONLY_WARNINGS = "[W::vcf_parse] Contig 'c1' is not defined in the header\n[M::mem] 10 reads\n"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (FAIDX, "[E::fai_build_core] Different line length in sequence 'c1'"),
        (BWA, "[E::bwa_idx_load_from_disk] fail to locate the index files"),
        (CALL, "Failed to read from calls.bcf: not compressed"),
        (ONLY_WARNINGS, ""),
        ("no such file\n12:00:00.123 WARN  Shutdown - late\n", "no such file"),
        ("no such file\nWARNING: temporary files are kept\n", "no such file"),
        ("[E::idx_find_and_load] Could not retrieve\n[E::main] bad\n", "[E::main] bad"),
        (
            "[E::idx_find_and_load] Could not retrieve\n",
            "[E::idx_find_and_load] Could not retrieve",
        ),
        (
            "[bwt_restore_bwt] fail to open\n[bwa_index] Pack FASTA...\n",
            "[bwt_restore_bwt] fail to open",
        ),
        ("ValueError: bad\n\n  \n", "ValueError: bad"),
    ],
)
def test_warnings_and_progress_are_no_reason(tmp_path: Path, words: str, reason: str) -> None:
    assert failure_reason(words) == reason
    (tmp_path / "tool.log").write_text(words)
    failure = task_failure("call", "", 1, "", tmp_path, ["tool.log"])
    told = f": {reason}" if reason else ""
    assert failure.message == f"rule call ended with exit status 1{told}"


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
    run = tmp_path / "runs" / "1"
    cached = f"{tmp_path}/cache/references/.build-x1/ab/genome.fa.fai"
    assert shorten(f"open: {cached}: no, {run}/work/a", run) == "open: genome.fa.fai: no, work/a"
    assert shorten('in file "/opt/x/Snakefile", line 3', tmp_path) == 'in file "Snakefile", line 3'
