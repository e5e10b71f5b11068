"""Thirty tests of lab.py against wesemu. They need no configuration, only wesemu and pytest."""

import pytest
from lab import Lab, Refused

KINDS = {"mapping": "out/a.bam", "wgs": "out/a.vcf.gz"}


@pytest.fixture
def lab(wesemu):
    return Lab(wesemu.url)


@pytest.fixture
def start(lab, wesemu):
    """Start a job with simulated reads. Return its name."""

    def start(kind="mapping", pairs=50, **others):
        sample = wesemu.reads(pairs=pairs, snps=0, bucket="genes")
        fields = {
            "bucket": sample.bucket,
            "first": "reads_1.fq.gz",
            "second": "reads_2.fq.gz",
            "reference": "reference.fa",
            "output": KINDS[kind],
        }
        return lab.start(kind, **fields | others)

    return start


@pytest.mark.parametrize("key", ["a", "a/b.txt", "with%20space", "%E5%9F%BA%E5%9B%A0"])
def test_what_is_uploaded_comes_back(lab, key):
    lab.upload("inputs", key, b"content")
    assert lab.download("inputs", key) == b"content"


def test_an_upload_creates_the_bucket(lab, wesemu):
    lab.upload("inputs", "a", b"1")
    assert wesemu.client.buckets() == ["inputs"]


def test_a_missing_object_is_refused(lab, wesemu):
    wesemu.bucket("inputs")
    with pytest.raises(Refused) as refused:
        lab.download("inputs", "nothing")
    assert refused.value.status == 404


@pytest.mark.parametrize("kind", KINDS)
def test_a_job_succeeds_and_its_name_tells_the_kind(lab, start, kind):
    name = start(kind)
    assert name.startswith(f"{kind}-gpu-")
    assert lab.wait(name)["status"] == "Succeeded"


@pytest.mark.parametrize("kind", KINDS)
def test_the_result_is_in_the_bucket(lab, start, kind):
    lab.wait(start(kind))
    assert lab.download("genes", KINDS[kind])[:2] == b"\x1f\x8b"


@pytest.mark.parametrize("pairs", [1, 200])
def test_reads_and_bases_are_counted(lab, start, pairs):
    job = lab.wait(start(pairs=pairs))
    assert (int(job["total_reads"]), int(job["total_bases"])) == (2 * pairs, 300 * pairs)


@pytest.mark.parametrize(("service", "minutes"), [("s", "60"), ("g", "45"), ("p", "30")])
def test_the_service_level_sets_the_minutes(lab, start, service, minutes):
    assert lab.wait(start(service=service))["sla_minutes"] == minutes


def test_jobs_are_listed_newest_first(lab, start):
    names = [start(output=f"out/{number}.bam") for number in range(3)]
    assert lab.jobs() == names[::-1]


def test_a_removed_job_is_gone(lab, start):
    name = start()
    lab.wait(name)
    lab.remove(name)
    assert lab.jobs() == []


def test_an_unknown_job_is_refused(lab):
    with pytest.raises(Refused) as refused:
        lab.job("mapping-gpu-zzzzz")
    assert (refused.value.status, refused.value.code) == (404, "ErrorWorkflowNotFound")


@pytest.mark.parametrize(
    ("field", "value", "status"),
    [
        ("bucket", "no-such-bucket", 404),
        ("first", "no-such-reads.fq.gz", 404),
        ("reference", "no-such-genome", 404),
        ("service", "gratis", 400),
    ],
)
def test_a_wrong_field_is_refused(start, field, value, status):
    with pytest.raises(Refused) as refused:
        start(**{field: value})
    assert refused.value.status == status
    assert refused.value.code


@pytest.mark.parametrize("times", [1, 2])
def test_a_busy_service_is_asked_again(lab, start, wesemu, times):
    wesemu.faults.add(operation="StartWorkflow", status=503, times=times)
    assert lab.wait(start())["status"] == "Succeeded"


def test_a_service_that_stays_busy_is_given_up(start, wesemu):
    wesemu.faults.add(operation="StartWorkflow", status=503, times=3)
    with pytest.raises(Refused) as refused:
        start()
    assert refused.value.status == 503


def test_a_lost_connection_is_tried_again(lab, start, wesemu):
    name = start()
    wesemu.faults.add(operation="DescirbeWorkflow", drop=True)
    assert lab.wait(name)["status"] == "Succeeded"


def test_a_failed_task_fails_the_job(lab, start, wesemu):
    wesemu.faults.add(next_run={"fails_at_task": 1})
    assert lab.wait(start())["status"] == "Failed"


def test_a_job_that_misses_its_service_level_is_free(lab, start, wesemu):
    wesemu.faults.add(next_run={"misses_sla": True, "late_minutes": 5})
    wesemu.clock.set_speed(36_000)  # ten hours a second
    job = lab.wait(start())
    assert (job["sla_met"], job["sla_charged_cny"]) == ("false", "0")


def test_bad_reads_are_named(lab, start):
    lab.upload("genes", "bad.fq.gz", b"no reads")
    job = lab.wait(start(second="bad.fq.gz"))
    assert job["status"] == "Failed"
    assert "bad.fq.gz" in job["error_message"]


def test_the_service_reads_all_fields_but_the_version(start, wesemu):
    start()
    [request] = [each for each in wesemu.requests if each.operation == "StartWorkflow"]
    assert request.unread == ("cli_version",)
    assert request.client == "lab/1.0"
