"""Inputs with braces in their names are refused, because Snakemake takes them for patterns."""

import re
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient
from api.inputs.conftest import Serve, ended, mapping
from support.waiting import eventually
from unit.storage.origin import Origin

from wesemu.errors import InvalidRequest
from wesemu.runs.model import LOCAL_OWNER, RunState
from wesemu.runs.service import RunService
from wesemu.settings import Settings
from wesemu.testing.fake_engine import ScriptedEngine

Client = TestClient[web.Request, web.Application]

HERE = "oss://genes/fastq/a_1.fq.gz"


@pytest.fixture
def odd(settings: Settings) -> Path:
    """A folder with a pair of reads and a FASTA, all with braces."""
    folder = settings.data / "buckets/genes/run{7}"
    folder.mkdir()
    for name in ("a_1.fq.gz", "a_2.fq.gz", "genome.fa"):
        (folder / name).write_text(">chr1\nACGT\n")
    inner = settings.data / "buckets/genes/folder"
    inner.mkdir()
    for mate in (1, 2):
        (inner / f"{{x}}_{mate}.fq.gz").write_bytes(b"x")
    return folder


@pytest.mark.parametrize(
    ("first", "second", "more", "field"),
    [
        ("oss://genes/run{7}/a_1.fq.gz", HERE, {}, "reads.0.first"),
        (HERE, "oss://genes/run{7}/a_2.fq.gz", {}, "reads.0.second"),
        (HERE, HERE.replace("_1", "_2"), {"reference": "oss://genes/run{7}"}, "reference"),
        ("oss://genes/folder", "oss://genes/folder", {}, "reads"),
    ],
)
async def test_a_key_with_braces_is_refused_and_named(
    client: Client,
    runs: RunService,
    odd: Path,
    first: str,
    second: str,
    more: dict[str, str],
    field: str,
) -> None:
    with pytest.raises(InvalidRequest, match="for a wildcard; rename the file") as refused:
        await runs.submit(LOCAL_OWNER, mapping(first, second, **more))
    assert refused.value.field == field
    assert re.search(r"oss://genes/\S*{.}", refused.value.message)


async def test_braces_in_the_data_directory_are_not_blamed_on_a_key(
    serve: Serve, settings: Settings, tmp_path: Path
) -> None:
    data = settings.data.rename(tmp_path / "data {1}")
    runs = await serve(data=data)
    with pytest.raises(InvalidRequest, match=f"the server's folder with {HERE} for a wildcard"):
        await runs.submit(LOCAL_OWNER, mapping(HERE, HERE.replace("_1", "_2")))


async def test_a_web_address_with_braces_is_fetched_under_another_name(
    serve: Serve, origin: Origin, engine: ScriptedEngine, settings: Settings
) -> None:
    runs = await serve()
    request = mapping(f"{origin.url}/{{s}}_1.fq", HERE, sample="wait-1")
    run = await runs.submit(LOCAL_OWNER, request)
    await eventually(lambda: bool(engine._launched))
    staged = (settings.data / "runs" / run.id / "inputs").rglob("*.fq")
    assert [path.name for path in staged] == ["_s__1.fq"]
    engine.release("wait-1")
    assert (await ended(runs, run)).state is RunState.COMPLETE
