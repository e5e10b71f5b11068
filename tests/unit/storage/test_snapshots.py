"""Snapshot files: refusals, and the replacement of paths."""

import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support.nested_folders import nested_folders

from wesemu.errors import DiskFull, InvalidRequest
from wesemu.runs import disk_full
from wesemu.runs.data_directory import DataDirectory, IdSource
from wesemu.runs.model import LOCAL_OWNER, JsonValue, Resources, Run, RunId, RunRequest, RunState
from wesemu.runs.ports import Plan
from wesemu.runs.run_directory import Workspace
from wesemu.runs.serialization import write_end, write_submission
from wesemu.runs.sla import ServiceLevel
from wesemu.storage import snapshots
from wesemu.storage.object_records import ObjectRecord
from wesemu.storage.objects import ObjectStore
from wesemu.storage.snapshots import PathMarks, SnapshotCounts, SnapshotState

NOW = datetime(2020, 1, 1, tzinfo=UTC)
IDS = ["00000000-0000-4000-8000-000000000002", "00000000-0000-4000-8000-000000000001"]


def filled(root: Path) -> DataDirectory:
    """Return a data directory with two ended runs, a bucket and a reference."""
    data = DataDirectory(root)
    data.create()
    for number, run_id in enumerate(IDS):
        workspace = Workspace(data.runs / run_id)
        workspace.outputs.mkdir(parents=True)
        (workspace.outputs / "a").write_text(f"at {root}")
        workspace.stderr.write_text(f"at {root}/runs")
        (workspace.root / "work").mkdir()
        run = Run(
            id=RunId(run_id),
            sequence=number,
            handle=f"bcdf{number}",
            owner=LOCAL_OWNER,
            state=RunState.COMPLETE,
            workflow="",
            service_level=ServiceLevel.SILVER,
            request=RunRequest("Snakefile"),
            resources=Resources(),
            created=NOW,
            ended=NOW,
        )
        plan = Plan("snakemake", "", ServiceLevel.SILVER, Resources(), None)
        write_submission(workspace, replace(run, state=RunState.QUEUED, ended=None), plan)
        write_end(workspace, run, ())
    for name in ("buckets/genes/a/b.txt", "references/tiny/genome.fa"):
        (root / name).parent.mkdir(parents=True)
        (root / name).write_text("content")
    return data


def marks(root: Path) -> PathMarks:
    return PathMarks({"data": str(root)})


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    root = tmp_path_factory.mktemp("first")
    data = filled(root / "data")
    file = root / "snapshot.tar"
    state = SnapshotState(NOW, 2.0, IdSource(1).state(), tuple(IDS))
    counts = snapshots.save(data, marks(data.root), file, state)
    assert counts == SnapshotCounts(2, 1, 1)
    return file.read_bytes()


def unpacked(content: bytes, folder: Path) -> SnapshotState:
    file = folder / "snapshot.tar"
    file.write_bytes(content)
    return snapshots.unpack(file, folder / "unpacked", marks(folder / "new place"))


def test_a_snapshot_is_unpacked_with_the_paths_of_the_new_place(
    content: bytes, tmp_path: Path
) -> None:
    state = unpacked(content, tmp_path)
    assert state == SnapshotState(NOW, 2.0, IdSource(1).state(), tuple(IDS))
    root = DataDirectory(tmp_path / "new place")
    root.create()
    assert snapshots.install(tmp_path / "unpacked", root) == SnapshotCounts(2, 1, 1)
    run = Workspace(root.runs / IDS[0])
    assert run.stderr.read_text() == f"at {root.root}/runs"
    assert (run.outputs / "a").read_text() != f"at {root.root}"  # results stay as they are
    assert not run.work.exists()
    assert (root.buckets / "genes/a/b.txt").read_text() == "content"


@pytest.mark.parametrize("text", ["[]", "[" * 100_000, '{"engine": "a"}', "no JSON"])
def test_a_launch_that_a_workflow_has_written_hinders_no_snapshot(
    tmp_path: Path, text: str
) -> None:
    data = filled(tmp_path / "data")
    (data.runs / IDS[0] / "engine.json").write_text(text)
    state = SnapshotState(NOW, 2.0, None, tuple(IDS))
    snapshots.save(data, marks(data.root), tmp_path / "file", state)
    with tarfile.open(tmp_path / "file") as archive:
        launch = archive.extractfile(f"runs/{IDS[0]}/engine.json")
        assert launch is not None
        assert launch.read() == b"{}"


@pytest.mark.parametrize("saved", [3, 5])
def test_objects_keep_their_records(tmp_path: Path, saved: int) -> None:
    data = filled(tmp_path / "data")
    store = ObjectStore(data.buckets, None)
    with store.new_upload("genes") as upload:
        upload.write(b"x")
        put = store.put("genes", "x", upload, ObjectRecord(etag=upload.finish().etag))
    (record,) = (data.buckets / "genes/.wesemu/records").rglob("*.json")
    content = json.loads(record.read_bytes())
    record.write_text(json.dumps(content | {"file": content["file"][:saved]}))
    state = SnapshotState(NOW, 2.0, None, tuple(IDS))
    snapshots.save(data, marks(data.root), tmp_path / "file", state)
    unpacked((tmp_path / "file").read_bytes(), tmp_path)
    assert ObjectStore(tmp_path / "unpacked/buckets", None).find("genes", "x") == put


def test_a_snapshot_looks_at_nothing_that_it_leaves_out(tmp_path: Path) -> None:
    data = filled(tmp_path / "data")
    with nested_folders(Workspace(data.runs / IDS[0]).work / "results"):
        state = SnapshotState(NOW, 2.0, None, tuple(IDS))
        counts = snapshots.save(data, marks(data.root), tmp_path / "file", state)
    assert counts == SnapshotCounts(2, 1, 1)


def test_two_snapshots_of_one_state_are_the_same(tmp_path: Path) -> None:
    data = filled(tmp_path / "data")
    state = SnapshotState(NOW, 2.0, None, tuple(IDS))
    files = [tmp_path / "1.tar", tmp_path / "2.tar"]
    for file in files:
        snapshots.save(data, marks(data.root), file, state)
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_reference_with_the_same_sequences_stays(content: bytes, tmp_path: Path) -> None:
    unpacked(content, tmp_path)
    root = DataDirectory(tmp_path / "new place")
    root.create()
    for folder in (root.references / "tiny", tmp_path / "unpacked" / "references" / "tiny"):
        folder.mkdir(exist_ok=True)
        (folder / "genome.json").write_text("{}")
    (root.references / "tiny" / "genome.fa.bwt").write_text("an index")
    snapshots.install(tmp_path / "unpacked", root)
    assert (root.references / "tiny" / "genome.fa.bwt").is_file()


Change = Callable[[list[tuple[tarfile.TarInfo, bytes]]], None]


def changed(content: bytes, change: Change) -> bytes:
    """Return a snapshot with other entries, and without a checksum, like earlier versions."""
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        entries = []
        for entry in archive:
            file = archive.extractfile(entry)
            entries.append((entry, file.read() if file else b""))
    entries[-1] = (entries[-1][0], b"")
    change(entries)
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for entry, data in entries:
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return written.getvalue()


def adding(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", **headers: str) -> Change:
    def change(entries: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname, entry.pax_headers = kind, link, headers
        entries.insert(-1, (entry, b"x" if kind == tarfile.REGTYPE else b""))

    return change


def unended(entries: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    """Remove the end of the run: a server would execute it again."""
    entries[:] = [pair for pair in entries if not pair[0].name.endswith("state.json")]


def of_another_id(entries: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    for entry, _ in entries:
        parts = entry.name.split("/")
        if parts[0] == "runs":
            entry.name = "/".join(["runs", "1" * 8 + parts[1][8:], *parts[2:]])


def of_another_format(entries: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    entries[0] = (entries[0][0], json.dumps({"format": 99}).encode())


def without_order(entries: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    manifest = json.loads(entries[0][1]) | {"runs": ["../../x"]}
    entries[0] = (entries[0][0], json.dumps(manifest).encode())


def saying(**values: JsonValue) -> Change:
    def change(entries: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        entries[0] = (entries[0][0], json.dumps(json.loads(entries[0][1]) | values).encode())

    return change


def after_its_end(entries: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    entries.append(entries[-2])


def without_end(entries: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    del entries[-1]


HOSTILE = {
    "path that leaves": adding("buckets/genes/../../../out"),
    "absolute path": adding("/etc/out"),
    "other folder": adding("leases/x"),
    "index": adding("wesemu.db"),
    "file in place of a bucket": adding("buckets/file"),
    "reserved key": adding("buckets/genes/.wesemu/incoming/x"),
    "wrong name of a bucket": adding("buckets/UP", tarfile.DIRTYPE),
    "wrong name of a reference": adding("references/.hidden/genome.fa"),
    "symbolic link": adding("buckets/genes/x", tarfile.SYMTYPE, "/etc/passwd"),
    "hard link": adding("buckets/genes/x", tarfile.LNKTYPE, "buckets/genes/a/b.txt"),
    "device": adding("buckets/genes/x", tarfile.CHRTYPE),
    "fifo": adding("buckets/genes/x", tarfile.FIFOTYPE),
    "file twice": adding("buckets/genes/a/b.txt"),
    "file in a file": adding("buckets/genes/a/b.txt/x"),
    "long name": adding("buckets/genes/" + "x" * 300),
    "huge header": adding("buckets/genes/x", comment="x" * (2 << 20)),
    "wrong time": adding("buckets/genes/x", **{"WESEMU.mtime_ns": "soon"}),
    "huge time": adding("buckets/genes/x", **{"WESEMU.mtime_ns": "9" * 40}),
    "other file of a run": adding("runs/00000000-0000-4000-8000-000000000000/work/x"),
    "run without a request": adding("runs/00000000-0000-4000-8000-000000000000/stderr.log"),
    "run that has not ended": unended,
    "run of another id": of_another_id,
    "other format": of_another_format,
    "runs without their order": without_order,
    "time without a zone": saying(emulated="2026-01-01T00:00:00"),
    "time before year 1 in UTC": saying(emulated="0001-01-01T00:00:00+14:00"),
    "time after the end of time": saying(emulated="9999-12-31T23:59:59-14:00"),
    "speed that is not a number": saying(speed="nan"),
    "speed below 0": saying(speed=-1),
    "entries after the end": after_its_end,
    "no end": without_end,
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_hostile_snapshots_are_refused(content: bytes, change: Change, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="not a snapshot that can be loaded"):
        unpacked(changed(content, change), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"snapshot.tar", "unpacked"}


@pytest.mark.parametrize("size", [0, 100, 700, 3000, 12000])
def test_damaged_snapshots_are_refused(content: bytes, size: int, tmp_path: Path) -> None:
    assert size < len(content)
    with pytest.raises(InvalidRequest):
        unpacked(content[:size], tmp_path)


def test_snapshots_without_a_checksum_are_unpacked(content: bytes, tmp_path: Path) -> None:
    older = changed(content, lambda entries: None)
    assert unpacked(older, tmp_path) == SnapshotState(NOW, 2.0, IdSource(1).state(), tuple(IDS))


def test_one_changed_bit_is_found_wherever_it_is(content: bytes, tmp_path: Path) -> None:
    end = len(content.rstrip(b"\0"))
    for position in [*range(0, end, 509), end - 1, end, len(content) - 1]:
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 7
        (folder := tmp_path / str(position)).mkdir()
        with pytest.raises(InvalidRequest, match="not a snapshot that can be loaded"):
            unpacked(bytes(damaged), folder)


def test_a_changed_result_is_named_as_damage(content: bytes, tmp_path: Path) -> None:
    assert content.count(b"content") == 2
    with pytest.raises(InvalidRequest, match="it is damaged"):
        unpacked(content.replace(b"content", b"Content", 1), tmp_path)


def test_a_snapshot_needs_room(content: bytes, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(disk_full, "LITTLE_DISK", 1 << 60)
    with pytest.raises(DiskFull, match="room for 0 bytes"):
        unpacked(content, tmp_path)


def test_paths_are_found_wherever_a_chunk_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    marks = PathMarks({"data": "/a/data", "pipelines": "/a/data/pipelines"})
    text = b"/a/data/x /a/database /a/data.old /a/data/pipelines/y '/a/data' /a/data"
    for chunk in range(1, len(text) + 2):
        monkeypatch.setattr(snapshots, "_CHUNK", chunk)
        marked, back = io.BytesIO(), io.BytesIO()
        marks.copy(io.BytesIO(text), marked, in_json=False, back=False)
        assert marked.getvalue() == (
            b"@wesemu-data@/x /a/database /a/data.old @wesemu-pipelines@/y "
            b"'@wesemu-data@' @wesemu-data@"
        )
        marks.copy(io.BytesIO(marked.getvalue()), back, in_json=False, back=True)
        assert back.getvalue() == text
