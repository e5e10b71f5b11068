"""Buckets are folders: their files are found, and no key leaves its bucket."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wesemu.errors import BucketNotFound, InvalidRequest, NotFound, ObjectNotFound
from wesemu.storage.buckets import Buckets, parse


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A bucket of two files, another bucket, and a secret outside of both."""
    root = tmp_path / "buckets"
    reads = root / "gene-shenzhen" / "fastq"
    reads.mkdir(parents=True)
    (reads / "a_1.fq.gz").write_bytes(b"1")
    (reads / "a_2.fq.gz").write_bytes(b"2")
    (root / "other").mkdir()
    (root / "other" / "theirs.txt").write_text("theirs")
    (tmp_path / "secret.txt").write_text("secret")
    return root


@pytest.fixture
def buckets(root: Path) -> Buckets:
    return Buckets(root)


def test_a_folder_made_by_hand_is_a_bucket(root: Path, buckets: Buckets) -> None:
    (root / "by-hand").mkdir()
    (root / ".trash").mkdir()
    (root / "Upper").mkdir()
    (root / "a-file").write_text("no bucket")
    assert buckets.names() == ["by-hand", "gene-shenzhen", "other"]


def test_a_data_directory_without_buckets_has_none(tmp_path: Path) -> None:
    assert Buckets(tmp_path / "missing").names() == []


def test_a_bucket_may_be_a_link_to_a_folder_on_another_disk(
    tmp_path: Path, root: Path, buckets: Buckets
) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "x.fq").write_text("x")
    (root / "linked").symlink_to(tmp_path / "disk")
    assert buckets.existing_file("oss://linked/x.fq").read_text() == "x"


@pytest.mark.parametrize(
    "key",
    [
        ".wesemu",
        ".wesemu/records/ab/cd.json",
        ".wesemu/uploads/x.bam",
        ".WeSeMu/x.bam",
        "link/x.bam",
        "deep/link/x.bam",
        "record.bam",
        "out/.x.bam.part",
    ],
)
def test_the_server_s_own_files_are_no_keys(root: Path, buckets: Buckets, key: str) -> None:
    own = root / "other" / ".wesemu" / "records"
    own.mkdir(parents=True)
    (root / "other" / "link").symlink_to(own)
    (root / "other" / "deep").mkdir()
    (root / "other" / "deep" / "link").symlink_to("../.wesemu")
    (root / "other" / "record.bam").symlink_to(own / "new.bam")
    for use in (buckets.target, buckets.existing, buckets.existing_file):
        with pytest.raises(InvalidRequest, match="kept for the server's own files"):
            use(f"oss://other/{key}", field="bam")


@pytest.mark.parametrize("target", ["other/.wesemu", "other/.wesemu/records"])
def test_a_bucket_that_leads_to_the_server_s_own_files_is_refused(
    root: Path, buckets: Buckets, target: str
) -> None:
    (root / target).mkdir(parents=True)
    (root / "sly-bucket").symlink_to(root / target)
    with pytest.raises(InvalidRequest, match="kept for the server's own files"):
        buckets.target("oss://sly-bucket/x.bam")


def test_names_like_the_server_s_own_are_keys_elsewhere(root: Path, buckets: Buckets) -> None:
    for key in ("out/.wesemu/x.bam", "wesemu/x.bam", ".wesemu2/x.bam", "x.part", ".x"):
        assert buckets.target(f"oss://other/{key}") == root / "other" / key


def test_existing_files_and_folders_are_found(root: Path, buckets: Buckets) -> None:
    fastq = root / "gene-shenzhen" / "fastq"
    assert buckets.existing_file("oss://gene-shenzhen/fastq/a_1.fq.gz") == fastq / "a_1.fq.gz"
    assert buckets.existing("oss://gene-shenzhen/fastq") == fastq
    assert buckets.existing("oss://gene-shenzhen/fastq/") == fastq


def test_a_missing_key_is_answered_with_what_is_there(buckets: Buckets) -> None:
    with pytest.raises(
        ObjectNotFound, match=r"no 'fastq/a_3.fq.gz'; there is 'a_2.fq.gz' and"
    ) as e:
        buckets.existing("oss://gene-shenzhen/fastq/a_3.fq.gz", field="wgs_fastq_first_name")
    assert e.value.field == "wgs_fastq_first_name"
    with pytest.raises(ObjectNotFound, match="the folder 'reads' is not there either"):
        buckets.existing("oss://gene-shenzhen/reads/a_1.fq.gz")
    with pytest.raises(ObjectNotFound, match=r"'a_1.fq.gz' is a file, not a folder"):
        buckets.existing("oss://gene-shenzhen/fastq/a_1.fq.gz/x")
    with pytest.raises(ObjectNotFound, match="upload it"):
        buckets.existing("oss://gene-shenzhen/zzzzzzzz.vcf")


def test_a_folder_is_no_file(buckets: Buckets) -> None:
    with pytest.raises(ObjectNotFound, match="is a folder; name a file in it"):
        buckets.existing_file("oss://gene-shenzhen/fastq")


def test_a_missing_bucket_is_answered_with_the_buckets_there_are(buckets: Buckets) -> None:
    with pytest.raises(BucketNotFound, match="buckets are gene-shenzhen, other; `wes") as caught:
        buckets.locate("gene-shanghai", "a", field="wgs_bucket_name")
    assert caught.value.field == "wgs_bucket_name"
    assert "`wesemu bucket put FILE oss://gene-shanghai/` creates it" in str(caught.value)


def test_a_long_list_of_buckets_is_cut(root: Path, buckets: Buckets) -> None:
    for number in range(20):
        (root / f"bucket-{number}").mkdir()
    with pytest.raises(BucketNotFound, match="and 12 more; `wesemu"):
        buckets.locate("none-such", "a")


def test_an_empty_root_says_that_there_are_no_buckets(tmp_path: Path) -> None:
    with pytest.raises(BucketNotFound, match="there are no buckets yet"):
        Buckets(tmp_path).locate("none-such", "a")


@pytest.mark.parametrize(
    "name", ["", "ab", "..", ".", "Upper", "-ab", "ab-", "a_b", "a/b", "a.b", "x" * 64, "ab\n"]
)
def test_names_that_no_bucket_can_have_are_refused(buckets: Buckets, name: str) -> None:
    with pytest.raises(InvalidRequest, match="is not a bucket name"):
        buckets.locate(name, "a")


@pytest.mark.parametrize(
    ("key", "fault"),
    [
        ("", "empty part"),
        ("a//b", "empty part"),
        ("a/", "empty part"),
        ("oss://lab/a.fq.gz", "is a URL; write the path in the bucket only"),
        ("/etc/passwd", "absolute; write the path from the bucket's top"),
        ("\\share\\x", "absolute"),
        ("../other/theirs.txt", r"'\.\.'"),
        ("fastq/../../other/theirs.txt", r"'\.\.'"),
        ("./fastq", r"'\.\.'"),
        ("a\x00b", "control character"),
        ("a\nb", "control character"),
        ("a\udcff", "control character"),
        ("a" * 256, "a name longer than 255 bytes"),
        ("a/" * 600 + "a", "is longer than 1023 bytes"),
    ],
)
def test_keys_that_cannot_be_are_refused(buckets: Buckets, key: str, fault: str) -> None:
    with pytest.raises(InvalidRequest, match=fault) as caught:
        buckets.locate("gene-shenzhen", key, field="reads.0.first")
    assert caught.value.field == "reads.0.first"


@pytest.mark.parametrize("target", ["../../secret.txt", "../other", "/", "loop"])
def test_links_that_leave_the_bucket_are_refused(root: Path, buckets: Buckets, target: str) -> None:
    (root / "gene-shenzhen" / "loop").symlink_to(target)
    for key in ("loop", "loop/new.bam"):
        with pytest.raises(InvalidRequest, match="leads out of the bucket"):
            buckets.locate("gene-shenzhen", key)


def test_a_link_within_the_bucket_is_followed(root: Path, buckets: Buckets) -> None:
    (root / "gene-shenzhen" / "same.fq.gz").symlink_to("fastq/a_1.fq.gz")
    assert buckets.existing_file("oss://gene-shenzhen/same.fq.gz").read_bytes() == b"1"


def test_an_output_may_go_where_no_folder_is_yet(root: Path, buckets: Buckets) -> None:
    target = buckets.target("oss://gene-shenzhen/out/deep/a.bam")
    assert target == root / "gene-shenzhen" / "out" / "deep" / "a.bam"
    assert not target.parent.exists()


def test_an_output_cannot_replace_a_folder_or_lie_below_a_file(buckets: Buckets) -> None:
    with pytest.raises(InvalidRequest, match="name the file to write") as caught:
        buckets.target("oss://gene-shenzhen/fastq", field="bam")
    assert caught.value.field == "bam"
    with pytest.raises(InvalidRequest, match=r"'fastq/a_1.fq.gz' is a file, not a folder"):
        buckets.target("oss://gene-shenzhen/fastq/a_1.fq.gz/x/a.bam")
    with pytest.raises(InvalidRequest, match="empty part"):
        buckets.target("oss://gene-shenzhen/out/")


def test_an_output_needs_its_bucket(buckets: Buckets) -> None:
    with pytest.raises(BucketNotFound):
        buckets.target("oss://missing/a.bam")


def test_a_location_has_a_bucket_and_a_key() -> None:
    assert parse("oss://b/k/with%20percent and space") == ("b", "k/with%20percent and space")


@pytest.mark.parametrize(
    "url", ["", "oss://", "oss://b", "oss://b/", "s3://b/k", "b/k", "OSS://b/k"]
)
def test_other_locations_are_refused(url: str) -> None:
    with pytest.raises(InvalidRequest, match="write oss://<bucket>/<key>"):
        parse(url)


_PARTS = st.sampled_from(
    [
        "..",
        ".",
        "",
        "fastq",
        "out",
        "up",
        "loop",
        "theirs.txt",
        "a_1.fq.gz",
        "…",
        "\x00",
        "~",
        "%2e%2e",
    ]
)
_KEYS = st.one_of(
    st.lists(_PARTS, max_size=6).map("/".join),
    st.text(max_size=30),
    st.text(alphabet="./\\a\x00", max_size=12),
)


@given(key=_KEYS, bucket=st.sampled_from(["gene-shenzhen", "other"]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_no_key_leaves_its_bucket(root: Path, buckets: Buckets, bucket: str, key: str) -> None:
    for name, target in (("up", ".."), ("out", "../other"), ("loop", "loop")):
        link = root / "gene-shenzhen" / name
        if not link.is_symlink():
            link.symlink_to(target)
    home = (root / bucket).resolve()
    try:
        path = buckets.locate(bucket, key)
    except InvalidRequest:
        return
    assert path.resolve().is_relative_to(home)
    assert path.resolve() != home
    for find in (buckets.existing, buckets.existing_file, buckets.target):
        try:
            found = find(f"oss://{bucket}/{key}")
        except (InvalidRequest, NotFound):
            continue
        assert found.resolve().is_relative_to(home)
