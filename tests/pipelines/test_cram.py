"""CRAM has version 3.0 unless the request asks for another."""

import pysam
import pytest
from support.sample_s import SAMPLE_S


@pytest.mark.parametrize("version", [None, "3.1"])
def test_cram_is_of_version_3_0_unless_another_is_asked_for(workflow, tmp_path, version):
    first, second = SAMPLE_S.write_reads(tmp_path)
    config = {
        "reads": [{"first": str(first), "second": str(second)}],
        "reference": str(SAMPLE_S.write_reference(tmp_path / "ref.fa")),
        "alignment": "aligned.cram",
    }
    run = workflow("mapping")
    results = run.succeed(config | ({"cram_version": version} if version else {}))
    cram = results / "aligned.cram"
    # CRAM specification, 6: "CRAM", major and minor number
    assert cram.read_bytes()[:6] == b"CRAM" + bytes(map(int, (version or "3.0").split(".")))
    reference = str(run.directory / "resources" / "genome.fa")
    with pysam.AlignmentFile(str(cram), reference_filename=reference) as file:
        assert sum(1 for _ in file.fetch("c2")) > 800
