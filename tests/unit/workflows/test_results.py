"""Results and failures of a pipeline, with the caller's names of files."""

import json
from pathlib import Path

from wesemu.workflows.results import input_failure


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
