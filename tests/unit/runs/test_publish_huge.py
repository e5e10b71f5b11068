"""Publishing of huge and many files: interruptions, durability, leftovers."""

import contextlib
import errno
import json
import os
import threading
from pathlib import Path

import pytest

from wesemu.runs import digests
from wesemu.runs.digests import DigestStore, HashingStopped
from wesemu.runs.ports import Publication
from wesemu.runs.publishing import LocalPublisher
from wesemu.runs.run_directory import Workspace
from wesemu.storage.checksums import find_crc64
from wesemu.storage.objects import ObjectStore

HUGE = 60 << 30
MANY = 2_000
LONGEST = "n" * 251 + ".bam"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    workspace = Workspace(tmp_path / "runs" / "a-run")
    workspace.work.mkdir(parents=True)
    (tmp_path / "buckets" / "genes").mkdir(parents=True)
    return workspace


def sparse(path: Path, size: int = HUGE) -> None:
    with path.open("wb") as file:
        file.truncate(size)


def into_bucket(workspace: Workspace, result: str, key: str) -> Publication:
    destination = workspace.root.parents[1] / "buckets" / "genes" / key
    return Publication(result, result, destination, f"oss://genes/{key}")


def leftovers(workspace: Workspace) -> list[str]:
    return [path.name for path in workspace.root.parents[1].rglob(".*part")]


def begin(
    workspace: Workspace, wanted: list[Publication], stop: threading.Event
) -> threading.Thread:
    def work() -> None:
        with pytest.raises(HashingStopped):
            LocalPublisher().publish_blocking(workspace, wanted, stop)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


@pytest.mark.parametrize("links", [True, False])
def test_it_is_broken_off_within_a_huge_file(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    sparse(workspace.work / "o")
    stop, reading = threading.Event(), threading.Event()
    if links:
        compute = digests.compute

        def told(*arguments: object) -> object:
            reading.set()
            return compute(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(digests, "compute", told)
    else:
        monkeypatch.setattr(DigestStore, "of", lambda *_: digests.FileDigests(HUGE, "", ""))
        link = os.link

        def refuse(source: Path, target: Path, **rest: bool) -> None:
            reading.set()
            if rest:
                link(source, target, **rest)
            raise OSError(errno.EXDEV, "another file system")

        monkeypatch.setattr(os, "link", refuse)
    thread = begin(workspace, [Publication("o", "o")], stop)
    assert reading.wait(60)
    stop.set()
    thread.join(60)
    assert not thread.is_alive()
    assert not (workspace.outputs / "o").exists()
    assert leftovers(workspace) == []


def test_digests_that_took_long_are_not_computed_again(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "_WORTH_KEEPING_SECONDS", 0.0)
    (workspace.work / "a").write_bytes(b"abc")
    sparse(workspace.work / "b")
    computed: list[int] = []
    stop = threading.Event()
    compute = digests.compute

    def once(descriptor: int, crc64: digests.Crc64 | None, stop: threading.Event) -> object:
        computed.append(os.fstat(descriptor).st_size)
        if computed[-1] == HUGE:
            stop.set()
        return compute(descriptor, crc64, stop)

    monkeypatch.setattr(digests, "compute", once)
    wanted = [Publication("a", "a"), Publication("b", "b")]
    with pytest.raises(HashingStopped):
        LocalPublisher().publish_blocking(workspace, wanted, stop)
    sparse(workspace.work / "b", 3)
    outputs = LocalPublisher().publish_blocking(workspace, wanted, threading.Event())
    assert computed == [3, HUGE, 3]
    assert [output.size for output in outputs] == [3, 3]
    (workspace.work / "a").write_bytes(b"another")
    [output] = LocalPublisher().publish_blocking(workspace, wanted[:1])
    assert output.size == 7


def test_many_files_are_made_durable_at_once(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(MANY):
        (workspace.work / f"{number}.txt").write_text(str(number))
    synced: list[int] = []
    fsync = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: (synced.append(descriptor), fsync(descriptor))
    )
    outputs = LocalPublisher().publish_blocking(
        workspace, [Publication(f"{n}.txt", f"{n}.txt") for n in range(MANY)]
    )
    assert len(outputs) == MANY
    assert len(synced) < 20
    assert leftovers(workspace) == []


def test_the_longest_names_are_published(workspace: Workspace) -> None:
    (workspace.work / LONGEST).write_text("new")
    (workspace.root.parents[1] / "buckets" / "genes" / LONGEST).write_text("old")
    store = ObjectStore(workspace.root.parents[1] / "buckets", find_crc64())
    LocalPublisher(store).publish_blocking(workspace, [into_bucket(workspace, LONGEST, LONGEST)])
    assert (workspace.outputs / LONGEST).read_text() == "new"
    assert store.find("genes", LONGEST).record.etag is not None
    assert leftovers(workspace) == []


class Killed(BaseException):
    """As SIGKILL, after which nothing is tidied up."""


@pytest.mark.parametrize("moment", range(8))
@pytest.mark.parametrize("again", [True, False])
def test_a_kill_at_any_moment_leaves_all_or_nothing(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, moment: int, again: bool
) -> None:
    """The process ends at its n-th change of a name; then another one goes on, or the run is
    canceled."""
    bucket = workspace.root.parents[1] / "buckets" / "genes"
    for name in ("a.bam", "a.bam.bai"):
        (workspace.work / name).write_text("new")
        (bucket / name).write_text("old")
    wanted = [into_bucket(workspace, name, name) for name in ("a.bam", "a.bam.bai")]
    with monkeypatch.context() as patch:
        replace, left = Path.replace, [moment]

        def killing(path: Path, target: Path) -> Path:
            if path.name.endswith(".part"):
                if not left[0]:
                    raise Killed
                left[0] -= 1
            return replace(path, target)

        patch.setattr(Path, "replace", killing)
        patch.setattr(Path, "unlink", lambda path, missing_ok=False: None)
        with contextlib.suppress(Killed):
            LocalPublisher().publish_blocking(workspace, wanted)
    if again:
        LocalPublisher().publish_blocking(workspace, wanted)
    else:
        LocalPublisher().clean_up_blocking(workspace)
    found = {(bucket / name).read_text() for name in ("a.bam", "a.bam.bai")}
    assert found == {"new"} if again else len(found) == 1
    assert leftovers(workspace) == []
    assert not workspace.publishing.exists()


def test_only_its_own_temporary_files_are_removed(workspace: Workspace) -> None:
    mine = workspace.root / "thesis.tex"
    mine.write_text("mine")
    workspace.publishing.write_text(json.dumps({"targets": [str(mine)], "committed": False}))
    LocalPublisher().clean_up_blocking(workspace)
    assert mine.read_text() == "mine"
    for content in ("", "[]", "[" * 100_000, '{"targets": 1}'):
        workspace.publishing.write_text(content)
        LocalPublisher().clean_up_blocking(workspace)
        assert not workspace.publishing.exists()
