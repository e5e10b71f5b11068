"""The preview of a FASTQ in a bucket."""

import gzip
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from api.dashboard.conftest import Client, Read

from wesemu.dashboard import buckets
from wesemu.settings import Settings

Preview = Callable[..., Any]


def records(*lengths: int) -> bytes:
    return b"".join(
        b"@read%06d\n%b\n+\n%b\n" % (n, b"ACGT" * 50 + b"A" * (length - 200), b"I" * length)
        for n, length in enumerate(lengths)
    )


@pytest.fixture
def preview(read: Read, settings: Settings) -> Preview:
    async def of(content: bytes, name: str = "x.fq.gz") -> dict[str, Any]:
        (settings.data / "buckets" / "genes" / name).write_bytes(content)
        html = await read("/ui/buckets/genes/preview", key=name)
        page: dict[str, Any] = json.loads(await read("/ui/buckets/genes/preview.json", key=name))
        assert (page["error"] or page["records"][0]["name"]) in html.replace("&#39;", "'")
        return page

    return of


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
async def test_a_small_file_is_counted(preview: Preview, pack: Callable[[bytes], bytes]) -> None:
    page = await preview(pack(records(200, 210, 250)))
    assert (page["reads"], page["bases"], page["exact"]) == (3, 660, True)
    assert page["lengths"] == {"least": 200, "most": 250, "mean": 220.0}
    assert page["records"][1]["sequence"] == "ACGT" * 50 + "A" * 10


@pytest.mark.parametrize("members", [1, 500])
async def test_the_reads_of_a_large_file_are_estimated(
    preview: Preview, monkeypatch: pytest.MonkeyPatch, members: int
) -> None:
    monkeypatch.setattr("wesemu.dashboard.buckets._READ_BYTES", 3000)
    part = records(*[200] * (5000 // members))
    page = await preview(gzip.compress(part) * members)
    assert page["reads"] == pytest.approx(5000, rel=0.25)
    assert not page["exact"]
    assert len(page["records"]) == 8


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no whole record"),
        (b">chr1\nACGT\n>chr2\nAC\n", "FASTA"),
        (b"@a\nACGT\n+\nII\n", "not FASTQ"),
        (records(200) + b"@b\nACGT\n+\nII\n", "record 2"),
        (b"\x1f\x8b garbage", "damaged"),
        (gzip.compress(b"hello " * 50), "no whole record"),
        (b"\xff\xfe" * 200, "no whole record"),
    ],
)
async def test_other_files_are_named(preview: Preview, content: bytes, reason: str) -> None:
    page = await preview(content)
    assert reason in page["error"]
    assert page["records"] == []


async def test_data_that_expands_without_end_is_read_in_bounded_memory(preview: Preview) -> None:
    page = await preview(gzip.compress(b"A" * 20_000_000))
    assert page["error"]


async def test_a_preview_is_made_beside_the_event_loop(
    preview: Preview, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[int] = set()
    original = buckets._head

    def noted(*arguments: Any) -> Any:
        seen.add(threading.get_ident())
        return original(*arguments)

    monkeypatch.setattr(buckets, "_head", noted)
    await preview(records(200))
    assert threading.get_ident() not in seen


async def test_a_missing_object_is_not_found(read: Read) -> None:
    await read("/ui/buckets/genes/preview", 404, key="nothing")
    await read("/ui/buckets/unknown/preview", 404, key="nothing")
    await read("/ui/buckets/genes/preview", 400)


async def test_chosen_files_fill_the_form_of_a_new_run(client: Client, read: Read) -> None:
    files = [f"oss://genes/fastq/a_{mate}.fq.gz" for mate in (2, 1)]
    page = await read("/ui/buckets/genes", prefix="fastq/")
    assert all(f'name="file" value="{url}"' in page for url in files)
    chosen = [("pipeline", "mapping"), *(("file", url) for url in files)]
    async with client.get("/ui/new.json", params=chosen) as response:
        assert (await response.json())["values"] == {"first": files[1], "second": files[0]}
    async with client.get("/ui/new", params=[*chosen, ("file", files[0])]) as response:
        assert response.status == 400
        assert "choose the two files of a pair" in await response.text()


def test_the_module_reads_a_fraction_of_a_file(tmp_path: Path) -> None:
    """The file is a hole of a terabyte: reading it all would not end."""
    file = tmp_path / "huge.fq"
    with file.open("wb") as content:
        content.write(records(200))
        content.truncate(1 << 40)
    with file.open("rb", buffering=0) as opened:
        assert len(buckets._head(opened, 1 << 40).text) == 256 << 10
