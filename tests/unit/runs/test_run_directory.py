"""Names that stay inside the run directory, and streamed attachments."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wesemu.errors import InvalidRequest
from wesemu.runs.run_directory import RunDirectoryDraft, safe_name


async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


@pytest.mark.parametrize(
    "name",
    ["", "/", "../x", "../../x", "a/../../x", "a/..", "/tmp/", "/etc/passwd", "a\0b", "a\nb",
     "a\\b", "dir/", "x" * 300, "y/" * 600 + "z", "."],
)  # fmt: skip
def test_unsafe_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidRequest):
        safe_name(name)


@pytest.mark.parametrize(
    ("name", "path"), [("a.smk", "a.smk"), ("./a//b.txt", "a/b.txt"), ("Ü b.fa", "Ü b.fa")]
)
def test_safe_names_are_kept(name: str, path: str) -> None:
    assert str(safe_name(name)) == path


@given(st.text(max_size=50))
def test_no_accepted_name_leaves_the_folder(name: str) -> None:
    try:
        path = safe_name(name)
    except InvalidRequest:
        return
    assert not path.is_absolute()
    assert Path("/run", path).resolve().is_relative_to("/run")


async def test_attachments_are_written_with_their_folders(tmp_path: Path) -> None:
    draft = RunDirectoryDraft(tmp_path / "run")
    await asyncio.to_thread(draft.create)
    await draft.attach("rules/a.smk", pieces(b"one", b"", b"two"))
    await draft.attach("empty", pieces())
    assert (tmp_path / "run/attachments/rules/a.smk").read_bytes() == b"onetwo"
    assert await asyncio.to_thread(draft.workspace.attachment_names) == ["empty", "rules/a.smk"]
    await asyncio.to_thread(draft.discard)
    assert not (tmp_path / "run").exists()


async def test_names_may_differ_by_case(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    if (tmp_path / "X").exists():
        pytest.skip("this file system does not tell cases apart")
    draft = RunDirectoryDraft(tmp_path / "run")
    await asyncio.to_thread(draft.create)
    await draft.attach("plot.R", pieces(b"one"))
    await draft.attach("plot.r", pieces(b"two"))
    assert (tmp_path / "run/attachments/plot.R").read_bytes() == b"one"
    assert (tmp_path / "run/attachments/plot.r").read_bytes() == b"two"


@pytest.mark.parametrize(
    "names", [("a", "a"), ("\u00e9", "e\u0301"), ("a", "a/b"), ("a/b", "a"), ("./a", "a")]
)
async def test_names_that_collide_are_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    draft = RunDirectoryDraft(tmp_path / "run")
    await asyncio.to_thread(draft.create)
    await draft.attach(names[0], pieces(b"first"))
    with pytest.raises(InvalidRequest):
        await draft.attach(names[1], pieces(b"second"))
    assert b"first" in (tmp_path / "run/attachments" / names[0]).read_bytes()
