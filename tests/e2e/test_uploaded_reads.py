"""Reads uploaded by the real OSS clients, and mapped by a signed job with real tools.

The job has `sla.pace = "sla"`; the clients download its results."""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pysam
import pytest
from conformance.ags.conftest import KEY_ID, SECRET
from conformance.ags.test_old_sdk import OldSdk
from conformance.oss.conftest import collect

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::SyntaxWarning")

SAMPLE = Path(__file__).resolve().parents[2] / "testdata" / "diploid"
FILES = {
    "in/s_1.fq.gz": "reads_1.fq.gz",
    "in/s_2.fq.gz": "reads_2.fq.gz",
    "reference/diploid/genome.fa": "reference.fa",
}
ORDER = {
    "workflow_type": "mapping",
    "service": "s",
    "mapping_bucket_name": "uploaded",
    "mapping_fastq_path": "in",
    "mapping_fastq_first_filename": "s_1.fq.gz",
    "mapping_fastq_second_filename": "s_2.fq.gz",
    "mapping_reference_path": "reference/diploid",
    "mapping_is_mark_dup": "true",
    "mapping_bam_out_path": "out",
    "mapping_bam_out_filename": "s.bam",
    "wesemu_bases": "120e9",
}
"""A few reads that stand for 120 Gbp: 80 minutes at silver, 8 seconds at speed 600."""

Transfer = Callable[[str, Mapping[str, bytes], list[str]], list[bytes]]


def by_oss2(endpoint: str, files: Mapping[str, bytes], wanted: list[str]) -> list[bytes]:
    import oss2

    session = oss2.Session()
    bucket = oss2.Bucket(oss2.Auth(KEY_ID, SECRET), endpoint, "uploaded", session=session)
    if files:
        bucket.create_bucket()
    for key, data in files.items():
        bucket.put_object(key, data)
    found = [bucket.get_object(key).read() for key in wanted]
    session.session.close()
    return found


def by_v2(endpoint: str, files: Mapping[str, bytes], wanted: list[str]) -> list[bytes]:
    import alibabacloud_oss_v2 as oss

    config = oss.config.load_default()
    config.credentials_provider = oss.credentials.StaticCredentialsProvider(KEY_ID, SECRET)
    config.region, config.endpoint = "cn-shenzhen", endpoint
    client = oss.Client(config)
    if files:
        client.put_bucket(oss.PutBucketRequest(bucket="uploaded"))
    for key, data in files.items():
        client.put_object(oss.PutObjectRequest(bucket="uploaded", key=key, body=data))
    found = []
    for key in wanted:
        with client.get_object(oss.GetObjectRequest(bucket="uploaded", key=key)).body as body:
            found.append(bytes(body.content))
    return found


class Jobs:
    """AGS by the official SDK's CommonRequest, signed."""

    def __init__(self, url: str) -> None:
        self._sdk = OldSdk(url.removeprefix("http://"))

    def call(self, method: str, path: str, body: str | None = None) -> dict[str, Any]:
        request = self._sdk.request(method, path, body)
        return dict(json.loads(self._sdk.client.do_action_with_exception(request)))

    def start(self) -> str:
        return str(self.call("POST", "/gs/workflow", json.dumps(ORDER))["JobName"])

    def told(self, name: str) -> dict[str, Any]:
        return self.call("GET", f"/gs/workflow/{name}")

    def ended(self, name: str) -> dict[str, Any]:
        deadline = time.monotonic() + 120
        while (told := self.told(name))["status"] in ("Pending", "Running"):
            assert time.monotonic() < deadline, told
            time.sleep(0.05)
        return told


@pytest.fixture
def url(serve, monkeypatch: pytest.MonkeyPatch) -> str:
    """A server with an access key, at the pace of service levels, ten minutes a second."""
    monkeypatch.setenv("WESEMU_AUTH__AGS_KEYS", json.dumps({KEY_ID: SECRET}))
    monkeypatch.setenv("WESEMU_SLA__PACE", "sla")
    monkeypatch.setenv("WESEMU_CLOCK__SPEED", "600")
    return str(serve().url)


def upload(transfer: Transfer, url: str) -> None:
    files = {key: (SAMPLE / name).read_bytes() for key, name in FILES.items()}
    assert transfer(url, files, []) == []


def check_results(transfer: Transfer, url: str, folder: Path) -> None:
    """What comes back by the client is what the fixture's known result says."""
    bam, index = transfer(url, {}, ["out/s.bam", "out/s.bam.bai"])
    (folder / "s.bam").write_bytes(bam)
    (folder / "s.bam.bai").write_bytes(index)
    golden = json.loads((SAMPLE / "golden.json").read_text())
    with pysam.AlignmentFile(folder / "s.bam") as file:
        records = [read for read in file.fetch() if not read.is_secondary | read.is_supplementary]
        assert file.header["HD"]["SO"] == "coordinate"
    assert len(records) == golden["primary"] == golden["primary_mapped"]
    assert sum(read.is_duplicate for read in records) == golden["duplicate_reads"]


def test_a_job_over_uploaded_reads_runs_for_its_minutes(url: str, tmp_path: Path) -> None:
    upload(by_oss2, url)
    jobs = Jobs(url)
    began = time.monotonic()
    name = jobs.start()
    done = jobs.ended(name)
    assert time.monotonic() - began >= 8
    assert (done["status"], done["duration"]) == ("Succeeded", "1h20m0s")
    assert (done["sla_minutes"], done["sla_price_cny"], done["sla_charged_cny"]) == (
        "80", "60", "60",
    )  # fmt: skip
    assert (done["total_reads"], done["total_bases"]) == ("8334", "1250100")
    assert (done["sla_bases"], done["sla_met"]) == ("120000000000", "true")
    check_results(by_oss2, url, tmp_path)
    collect()


def test_emulated_time_leaps_and_a_job_that_is_late_is_free(
    url: str, wesemu: Callable[..., Any], tmp_path: Path
) -> None:
    upload(by_v2, url)
    jobs = Jobs(url)
    for words in (("clock", "speed", 0), ("faults", "add", "next-run", "--misses-sla")):
        assert wesemu(*words, "--server", url).returncode == 0
    name = jobs.start()
    deadline = time.monotonic() + 60
    while jobs.told(name)["total_reads"] == "0":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert wesemu("clock", "advance", "80m", "--server", url).returncode == 0
    late = jobs.told(name)
    assert (late["status"], late["duration"]) == ("Running", "1h20m0s")
    assert wesemu("clock", "advance", "1m", "--server", url).returncode == 0
    done = jobs.ended(name)
    assert (done["status"], done["duration"], done["sla_met"]) == ("Succeeded", "1h21m0s", "false")
    assert (done["sla_price_cny"], done["sla_charged_cny"]) == ("60", "0")
    check_results(by_v2, url, tmp_path)
    collect()
