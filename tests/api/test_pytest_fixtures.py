"""The fixture `wesemu` of the pytest plugin, with the scripted engine."""

from importlib.util import find_spec

import pysam
import pytest

from wesemu.client import ClientError


def test_scripted_wgs_finds_the_true_snps(wesemu, tmp_path) -> None:
    sample = wesemu.reads(pairs=600, snps=5, duplicates=0.1)
    outputs = {"vcf": "o/a.vcf.gz", "bam": "o/a.bam", "gvcf": "o/a.g.vcf"}
    reports = ["multiqc"] if find_spec("multiqc") else []
    run = wesemu.run("wgs", reads=sample, reports=reports, **outputs).wait(60)
    run.raise_for_state()
    files = {name: output.download(tmp_path) for name, output in run.outputs.items()}
    with pysam.VariantFile(str(files["vcf"])) as calls:
        called = [
            (call.chrom, call.pos, call.ref, call.alts[0])
            for call in calls.fetch(sample.variants[0][0])
        ]
    assert called == [variant[:4] for variant in sample.variants]
    with pysam.AlignmentFile(str(files["bam"])) as alignment:
        assert alignment.mapped > 1000
        assert sum(read.is_duplicate for read in alignment) == 120
    assert [task.name for task in run.tasks] == ["map", "statistics", "call"]


def test_scripted_crams_and_plain_vcfs_are_valid(wesemu, tmp_path) -> None:
    sample = wesemu.reads(pairs=50, snps=0)
    group = "@RG\tID:lane\tSM:patient"
    lanes = [{"first": sample.first, "second": sample.second, "read_group": group}]
    place = {"reads": lanes, "reference": sample.reference, "bucket": sample.bucket}
    run = wesemu.run("wgs", **place, vcf="a.vcf", bam="a.cram").wait(60)
    run.raise_for_state()
    vcf, cram = (run.outputs[name].download(tmp_path) for name in ("vcf", "bam"))
    with pysam.VariantFile(str(vcf)) as calls:
        assert list(calls.header.samples) == ["patient"]
    fasta = wesemu.bucket(sample.bucket).download("reference.fa", tmp_path)
    with pysam.AlignmentFile(str(cram), reference_filename=str(fasta)) as alignment:
        assert [each["SM"] for each in alignment.header.to_dict()["RG"]] == ["patient"]
        assert {read.get_tag("RG") for read in alignment} == {"lane"}


def test_a_reset_server_gives_the_same_ids_and_no_old_answers(wesemu) -> None:
    first = wesemu.submit("rule a:\n", {"script": [{"write": "a.txt", "text": "a"}]}).wait(60)
    assert list(first.outputs) == ["a.txt"]
    wesemu.bucket("inputs")
    wesemu.reset()
    assert wesemu.client.buckets() == []
    second = wesemu.submit("rule b:\n", {"script": [{"write": "b.txt", "text": "b"}]}).wait(60)
    assert second.id == first.id
    assert list(second.outputs) == ["b.txt"]
    assert second.outputs["b.txt"].read() == b"b"


def test_rules_are_the_tasks_of_a_scripted_workflow(wesemu) -> None:
    snakefile = (
        "rule all:\n    input: 'b'\nrule one:\n    output: 'a'\ncheckpoint two:\n    output: 'b'\n"
    )
    run = wesemu.submit(snakefile).wait(60)
    assert [task.name for task in run.tasks] == ["one", "two", "all"]
    wesemu.faults.add(next_run={"fails_at_task": 2})
    run = wesemu.submit(snakefile).wait(60)
    assert run.state == "EXECUTOR_ERROR"


@pytest.mark.wesemu(settings={"sla": {"pace": "sla"}})
def test_a_run_with_a_pace_ends_on_the_emulated_clock(wesemu) -> None:
    run = wesemu.run("mapping", reads=wesemu.reads(pairs=20, snps=0))
    with pytest.raises(TimeoutError):
        run.wait(0.3)
    wesemu.clock.set_speed(36_000)
    assert run.wait(60).sla.met


def test_a_reference_has_a_name_until_the_reset(wesemu, tmp_path) -> None:
    sample = wesemu.reads(pairs=20, snps=0, bucket="mine")
    fasta = wesemu.bucket("mine").get("reference.fa")
    assert wesemu.reference("tiny", fasta) == "tiny"
    reads = (sample.first, sample.second)
    assert wesemu.run("mapping", reads=reads, reference="tiny").wait(60).counts.reads == 40
    assert [each["name"] for each in wesemu.client.references()] == ["tiny"]
    wesemu.reset()
    assert wesemu.client.references() == []
    (tmp_path / "genome.fa").write_bytes(fasta.replace(b">", b">other"))
    wesemu.reference("tiny", tmp_path / "genome.fa")


def test_a_snapshot_of_one_server_is_restored_on_another(wesemu, wesemu_session) -> None:
    wesemu_session.reset()
    sample = wesemu_session.reads(pairs=20, snps=0)
    run = wesemu_session.run("mapping", reads=sample, bam="a.bam").wait(60)
    snapshot = wesemu_session.snapshot()
    wesemu.bucket("other")
    wesemu.restore(snapshot)
    assert wesemu.client.buckets() == [sample.bucket]
    restored = wesemu.client.get(run.id)
    assert restored.outputs["bam"].read() == run.outputs["bam"].read()


def test_wrong_arguments_are_refused(wesemu) -> None:
    sample = wesemu.reads(pairs=20, snps=0)
    with pytest.raises(ValueError, match="reference"):
        wesemu.run("mapping", reads=(sample.first, sample.second))
    with pytest.raises(ClientError, match="bam"):
        wesemu.run("mapping", reads=sample, bam="out/a.txt")


class TestInARunningLoop:
    @pytest.fixture
    def blockbuster(self) -> None:
        """The client blocks this loop on purpose."""

    async def test_the_sync_client_works(self, wesemu) -> None:
        assert wesemu.client.ready()
        assert wesemu.submit("rule all:\n").wait(60).state == "COMPLETE"
