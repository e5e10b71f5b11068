"""Listings have every key once, in the order of its UTF-8 bytes, however they are paged."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wesemu.storage.objects import ObjectStore

_PARTS = st.sampled_from(["a", "b", "a-", "a.b", "é", "\U0001f9ec", "ｚ", "Z", "0"])
_KEYS = st.lists(_PARTS, min_size=1, max_size=3).map("/".join)


def fill(folder: Path, keys: list[str]) -> list[str]:
    """The keys that a file system can have together, written."""
    kept: list[str] = []
    for key in keys:
        path = folder / key
        if any(key.startswith(f"{other}/") or other.startswith(f"{key}/") for other in kept):
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
        kept.append(key)
    return sorted(set(kept), key=str.encode)


def expected(keys: list[str], prefix: str, delimiter: str) -> list[str]:
    found: list[str] = []
    for key in keys:
        if not key.startswith(prefix):
            continue
        end = key.find(delimiter, len(prefix)) if delimiter else -1
        name = key[: end + len(delimiter)] if end >= 0 else key
        if name not in found:
            found.append(name)
    return found


@settings(max_examples=60, deadline=None)
@given(
    keys=st.lists(_KEYS, max_size=12),
    prefix=st.sampled_from(["", "a", "a/", "a/b", "b/", "é", "x"]),
    delimiter=st.sampled_from(["", "/", "b", "a-"]),
    limit=st.integers(1, 5),
)
def test_pages_make_up_the_whole_listing(
    keys: list[str], prefix: str, delimiter: str, limit: int
) -> None:
    with tempfile.TemporaryDirectory() as root:
        bucket = Path(root, "genes")
        bucket.mkdir()
        kept = fill(bucket, keys)
        store = ObjectStore(Path(root), None)
        listed: list[str] = []
        after: str | None = ""
        while after is not None:
            page, infos = store.page(
                "genes", prefix=prefix, delimiter=delimiter, after=after, limit=limit
            )
            assert [info.key for info in infos] == page.keys
            assert len(page.keys) + len(page.prefixes) <= limit
            listed += sorted(page.keys + page.prefixes)
            after = page.after
        assert listed == expected(kept, prefix, delimiter)


@pytest.fixture
def bucket(tmp_path: Path) -> Path:
    bucket = tmp_path / "buckets" / "genes"
    bucket.mkdir(parents=True)
    return bucket


@pytest.fixture
def store(bucket: Path) -> ObjectStore:
    return ObjectStore(bucket.parent, None)


def keys_of(store: ObjectStore) -> list[str]:
    return [info.key for info in store.all("genes")]


def test_what_is_hidden_is_not_listed(bucket: Path, store: ObjectStore) -> None:
    for name in ("a.bam", ".a.bam.part", ".gitignore", "x/.b.vcf.12.part", ".wesemu/records/00/x"):
        (bucket / name).parent.mkdir(parents=True, exist_ok=True)
        (bucket / name).write_bytes(b"")
    assert keys_of(store) == [".gitignore", "a.bam"]


def test_links_are_listed_as_far_as_they_stay_in_the_bucket(
    bucket: Path, store: ObjectStore, tmp_path: Path
) -> None:
    (bucket / "a.bam").write_bytes(b"")
    (tmp_path / "secret").write_text("secret")
    (bucket / "same.bam").symlink_to("a.bam")
    (bucket / "out").symlink_to(tmp_path / "secret")
    (bucket / "gone").symlink_to("missing")
    (bucket / "round").symlink_to(".")
    assert keys_of(store) == ["a.bam", "same.bam"]


def test_a_folder_may_be_removed_during_a_listing(bucket: Path, store: ObjectStore) -> None:
    for name in ("a", "b/b", "c"):
        (bucket / name).parent.mkdir(exist_ok=True)
        (bucket / name).write_bytes(b"")
    listed = store.all("genes")
    assert next(listed).key == "a"
    shutil.rmtree(bucket / "b")
    assert [info.key for info in listed] == ["c"]


def test_names_that_no_key_can_have_are_left_out(bucket: Path, store: ObjectStore) -> None:
    for name in (b"a\nb", b"\xff", b"a.bam"):
        Path(os.fsdecode(bytes(bucket) + b"/" + name)).write_bytes(b"")
    assert keys_of(store) == ["a.bam"]


def test_folders_and_pipes_are_no_objects(bucket: Path, store: ObjectStore) -> None:
    (bucket / "empty").mkdir()
    os.mkfifo(bucket / "pipe")
    assert keys_of(store) == []
