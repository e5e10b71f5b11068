"""Results and failures of a pipeline, with the caller's names of files."""

import json
from pathlib import Path

import pytest

from wesemu.errors import InvalidRequest
from wesemu.workflows.params import WgsParams
from wesemu.workflows.results import check_read_groups, input_failure


def test_a_bad_input_goes_by_the_callers_name_and_shows_no_path(tmp_path: Path) -> None:
    work = tmp_path / "runs" / "1" / "work"
    work.mkdir(parents=True)
    fasta = tmp_path / "buckets" / "genes" / "ref.fa"
    fault = {
        "message": f"{fasta}.alt and {fasta} and {tmp_path}/cache/references/ab/genome.fa differ",
        "file": f"{fasta}.alt",
        "record": 3,
    }
    (work / "input_error.json").write_text(json.dumps(fault))
    names = {fasta: "oss://genes/ref.fa", Path(f"{fasta}.alt"): "its list"}
    failure = input_failure(work, lambda: names)
    assert failure is not None
    assert failure.message == "its list and oss://genes/ref.fa and genome.fa differ"
    assert (failure.file, failure.record) == ("its list", 3)


def test_a_read_group_that_freebayes_misreads_is_refused() -> None:
    """Remote lanes are not there yet: then only the given read groups are checked."""
    lane = {"first": "https://h/1.fq", "second": "https://h/2.fq"}
    reads = [lane, lane | {"read_group": "@RG\tID:a b"}]
    called = WgsParams.model_validate({"reads": reads, "caller": "freebayes"})
    with pytest.raises(InvalidRequest, match="it takes blanks for tabs") as caught:
        check_read_groups(called, [])
    assert caught.value.field == "reads.1.read_group"
    check_read_groups(WgsParams.model_validate({"reads": reads}), [])
