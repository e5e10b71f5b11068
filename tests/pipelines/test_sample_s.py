"""The properties of sample S that other tests rely on."""

import shutil

import pytest
from support.sample_s import SAMPLE_S, called


@pytest.mark.parametrize(
    "caller", ["bcftools", pytest.param("freebayes", marks=pytest.mark.native)]
)
def test_both_callers_find_the_nine_snps_and_no_other(workflow, tmp_path, caller):
    if caller != "bcftools" and shutil.which(caller) is None:
        pytest.skip(f"no {caller} on PATH")
    first, second = SAMPLE_S.write_reads(tmp_path / "reads")
    config = {
        "reads": [{"first": str(first), "second": str(second)}],
        "reference": str(SAMPLE_S.write_reference(tmp_path / "ref.fa")),
        "caller": caller,
    }
    results = workflow("wgs").succeed(config)
    assert called(results / "calls.vcf.gz") == SAMPLE_S.sites
    assert '"DUPLICATE TOTAL": 0' in (results / "markdup.json").read_text()
